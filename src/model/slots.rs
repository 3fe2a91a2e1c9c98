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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(inodes: &[u64]) -> BTreeSet<Inode> {
        inodes.iter().map(|&i| Inode(i)).collect()
    }

    fn table(inodes: &[u64]) -> Slots {
        Slots::in_order(inodes.iter().map(|&i| Inode(i)).collect())
    }

    #[test]
    fn a_close_moves_the_last_into_the_hole() {
        let mut slots = table(&[10, 11, 12]);
        slots.close(Inode(10));
        assert_eq!(slots, table(&[12, 11]));
    }

    #[test]
    fn of_an_unknown_order_only_all_or_nothing_is_certain() {
        let mut slots = Slots::members(vec![Inode(1), Inode(2)]);
        assert_eq!(slots.of(&set(&[1, 2])), vec![0, 1]);
        assert!(slots.of(&set(&[1])).is_empty());
        assert_eq!(slots.order(), None);
        slots.listen(Inode(3));
        assert_eq!(slots.of(&set(&[3])), vec![2], "who listens later stands behind them");
        slots.close(Inode(2));
        assert!(slots.of(&set(&[3])).is_empty(), "3 has moved to where 2 was, wherever that is");
        slots.close(Inode(1));
        assert_eq!(slots.of(&set(&[3])), vec![0]);
    }

    #[test]
    fn the_only_green_listener_stays_right_because_the_kernel_falls_back_to_it() {
        assert_eq!(table(&[1, 2]).while_closing(Inode(1), &set(&[2])), vec![1]);
    }

    #[test]
    fn of_as_many_that_come_as_go_one_slot_is_right_in_whichever_order_they_go() {
        let slots = table(&[1, 2, 3, 4, 5, 6]);
        let (blue, green) = (set(&[1, 2, 3]), set(&[4, 5, 6]));
        assert_eq!(slots.throughout(&green, &blue, usize::MAX), vec![3]);
        assert_eq!(slots.throughout(&green, &blue, 1), vec![3, 4]);
        assert_eq!(slots.throughout(&green, &set(&[]), usize::MAX), vec![3, 4, 5], "nobody closes");
        assert_eq!(slots.throughout(&blue, &green, usize::MAX), vec![0, 1, 2], "who stands before them all stays");
        assert!(table(&[1, 2, 3]).throughout(&set(&[3]), &set(&[1, 2]), 1).is_empty());
    }

    #[test]
    fn no_slot_is_right_while_the_only_green_listener_moves_and_another_blue_one_stays() {
        assert!(table(&[1, 2, 3]).while_closing(Inode(1), &set(&[3])).is_empty());
    }

    #[test]
    fn strangers_and_missing_ones_are_named() {
        let mismatch = table(&[1, 2]).compare(&set(&[2, 3])).expect_err("they differ");
        assert_eq!(mismatch, Mismatch { strangers: vec![Inode(3)], missing: vec![Inode(1)] });
    }

    impl Slots {
        /// As in the kernel: an index outside of the table falls back to the hash over all listeners.
        fn leads_to(&self, slot: u16, wanted: &BTreeSet<Inode>) -> bool {
            match self.table.get(usize::from(slot)) {
                Some(listener) => wanted.contains(listener),
                None => self.table.iter().all(|listener| wanted.contains(listener)),
            }
        }
    }

    proptest! {
        /// For any number of listeners: blue closes its listeners one by one, and a program that picks among the safe
        /// slots leads to green only, before and after each close. The one exception: a single green listener that the
        /// first close moves has no such slot during that close.
        #[test]
        fn blue_closes_and_no_connection_goes_to_it(blue in 1_u64..12, green in 1_u64..12) {
            let blues: Vec<u64> = (0..blue).collect();
            let greens: Vec<u64> = (100..100 + green).collect();
            let wanted = set(&greens);
            let mut slots = table(&[blues.clone(), greens].concat());
            for (nth, b) in blues.into_iter().enumerate() {
                let safe = slots.while_closing(Inode(b), &wanted);
                prop_assert_eq!(safe.is_empty(), green == 1 && nth == 0 && blue > 1);
                let before = slots.clone();
                slots.close(Inode(b));
                prop_assert!(safe.iter().all(|&slot| before.leads_to(slot, &wanted) && slots.leads_to(slot, &wanted)));
            }
        }

        /// For any order of the slots, known or not, and any order of the closes.
        #[test]
        fn whatever_is_closed_no_connection_goes_astray(
            (table, blue) in (2_usize..14).prop_flat_map(|n| {
                let table = Just((0..n as u64).map(Inode).collect::<Vec<_>>()).prop_shuffle();
                (table, proptest::sample::subsequence((0..n as u64).map(Inode).collect::<Vec<_>>(), 1..n).prop_shuffle())
            }),
            strangers in 0_usize..2,
            closes in 1_usize..14,
            vague in 0_usize..14,
        ) {
            let closing: BTreeSet<Inode> = blue.iter().copied().collect();
            let others = table.iter().copied().filter(|listener| !closing.contains(listener));
            let wanted: BTreeSet<Inode> = others.skip(strangers).collect();
            let vague = if vague < 2 { 0 } else { vague.min(table.len()) };
            let mut believed = table.clone();
            believed[..vague].reverse();
            let right = Slots { table: believed, vague }.throughout(&wanted, &closing, closes);
            let mut slots = Slots::in_order(table);
            for listener in blue.into_iter().take(closes) {
                prop_assert!(right.iter().all(|&slot| slots.leads_to(slot, &wanted)));
                slots.close(listener);
            }
            prop_assert!(right.iter().all(|&slot| slots.leads_to(slot, &wanted)));
        }
    }
}
