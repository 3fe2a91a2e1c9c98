//! The slot table of one group: the listener at each index, as the kernel keeps it.
//!
//! The kernel keeps the listeners of a group in an array: listen(2) appends a listener, and close(2) moves the last
//! listener into the hole (`__reuseport_add_sock`, `__reuseport_detach_sock` in net/core/sock_reuseport.c, Linux 6.18).
//! If a program returns an index outside of the array, the kernel falls back to the hash over all listeners
//! (`reuseport_select_sock`).

use std::collections::BTreeSet;

use super::identity::Inode;

/// The difference between the table and the listeners that the kernel shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Listeners that the kernel shows and the table does not know.
    pub(crate) strangers: Vec<Inode>,
    /// Listeners that the table knows and the kernel does not show.
    pub(crate) missing: Vec<Inode>,
}

/// The listeners of one group, by slot.
///
/// A generation whose predecessor ended without a message knows that the slots are its own, but not their order: the
/// first `vague` slots then hold the first `vague` listeners of the table in an unknown order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slots {
    table: Vec<Inode>,
    vague: usize,
}

impl Slots {
    /// A group with these listeners, in the order of their slots.
    pub(crate) fn in_order(table: Vec<Inode>) -> Slots {
        Slots { table, vague: 0 }
    }

    /// A group with these listeners, in an unknown order.
    pub(crate) fn members(table: Vec<Inode>) -> Slots {
        let vague = if table.len() > 1 { table.len() } else { 0 };
        Slots { table, vague }
    }

    /// The same listeners, in an unknown order.
    pub(crate) fn forgotten(self) -> Slots {
        Slots::members(self.table)
    }

    /// The listeners in the order of their slots; `None` if the order is not known.
    pub(crate) fn order(&self) -> Option<&[Inode]> {
        (self.vague == 0).then_some(&self.table)
    }

    /// A listener of the group called listen(2).
    pub(crate) fn listen(&mut self, listener: Inode) {
        self.table.push(listener);
    }

    /// The first slots, if exactly these listeners hold them.
    pub(crate) fn prefix(&self, listeners: &BTreeSet<Inode>) -> Option<Slots> {
        let first = self.table.get(..listeners.len())?;
        let holds = self.vague <= first.len() && first.iter().copied().collect::<BTreeSet<_>>() == *listeners;
        holds.then(|| Slots { table: first.to_vec(), vague: self.vague })
    }

    /// Whether the last `count` slots hold only listeners of this set.
    pub(crate) fn last_are(&self, count: usize, listeners: &BTreeSet<Inode>) -> bool {
        self.table.iter().rev().take(count).all(|last| listeners.contains(last))
    }

    /// The listeners of the table for which `is_meant` is true.
    pub(crate) fn members_of(&self, is_meant: impl Fn(Inode) -> bool) -> Vec<Inode> {
        self.table.iter().copied().filter(|&listener| is_meant(listener)).collect()
    }

    pub(crate) fn contains(&self, listener: Inode) -> bool {
        self.table.contains(&listener)
    }

    /// A listener of the group was closed. A listener that is not in the table is ignored.
    pub(crate) fn close(&mut self, listener: Inode) {
        let Some(hole) = self.table.iter().position(|&l| l == listener) else { return };
        // The last listener moves into the hole. Where the slot of the closed listener is unknown, so is now that of
        // the moved one.
        self.table.swap_remove(hole);
        self.vague = self.vague.min(self.table.len());
        if self.vague == 1 {
            self.vague = 0;
        }
    }

    /// The slots that lead to one of these listeners for certain.
    pub(crate) fn of(&self, listeners: &BTreeSet<Inode>) -> Vec<u16> {
        let vague_is_right = self.table[..self.vague].iter().all(|l| listeners.contains(l));
        (0_u16..)
            .zip(&self.table)
            .filter(|(slot, listener)| match usize::from(*slot) < self.vague {
                true => vague_is_right,
                false => listeners.contains(listener),
            })
            .map(|(slot, _)| slot)
            .collect()
    }

    /// The slots that lead only to `wanted` both before and after `closing` is closed. A program that picks among these
    /// slots is right at every moment of the close.
    ///
    /// A slot that is out of range after the close is included only if all remaining listeners are in `wanted`, because
    /// the kernel then hashes over all of them. The result is empty where no such slot exists: that is when the only
    /// wanted listener is the last in the table and others stay, because the close itself moves the wanted listener.
    pub(crate) fn while_closing(&self, closing: Inode, wanted: &BTreeSet<Inode>) -> Vec<u16> {
        self.throughout(wanted, &BTreeSet::from([closing]), 1)
    }

    /// The slots that lead only to `wanted` while up to `closes` of the listeners in `closing` are closed, in any
    /// order. Empty where no such slot exists.
    pub(crate) fn throughout(&self, wanted: &BTreeSet<Inode>, closing: &BTreeSet<Inode>, closes: usize) -> Vec<u16> {
        let here = self.table.iter().filter(|listener| closing.contains(listener)).count();
        let closes = closes.min(here);
        // A close moves only the last listener: all listeners before the last `closes` ones keep their slots.
        let stay = self.table.len() - closes;
        // One more slot is right if only `wanted` is left when that slot is out of range: the kernel then hashes over
        // `wanted`.
        let hash_is_right = closes == here && self.table.iter().all(|l| wanted.contains(l) || closing.contains(l));
        let right = stay + usize::from(hash_is_right);
        self.of(wanted).into_iter().filter(|&slot| usize::from(slot) < right).collect()
    }

    /// Compares the table with the listeners that the kernel shows.
    pub(crate) fn compare(&self, shown: &BTreeSet<Inode>) -> Result<(), Mismatch> {
        let known: BTreeSet<Inode> = self.table.iter().copied().collect();
        if known == *shown {
            return Ok(());
        }
        Err(Mismatch {
            strangers: shown.difference(&known).copied().collect(),
            missing: known.difference(shown).copied().collect(),
        })
    }
}

#[cfg(test)]
mod tests;
