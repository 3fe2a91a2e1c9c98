//! Placeholders: listeners of this process in a group of other processes, which get no connections. Through a
//! placeholder a program is attached to a group whose listeners may not be copied. Further placeholders take the last
//! slots, so that a close moves them instead of listeners that are wanted.

use std::collections::BTreeSet;

use super::error::Unsteered;
use super::group::Group;
use crate::model::identity::Inode;
use crate::model::slots::Slots;
use crate::model::steering::Program;
use crate::sys::placeholder::{BoundPlaceholder, Placeholder};
use crate::sys::sock_diag;

impl Group {
    /// Makes sure that a program can be attached: if no listener of ours can be copied, adds a placeholder.
    ///
    /// # Errors
    /// Why no listener of ours can be copied, and why no placeholder can be added either.
    pub(super) fn hold(&mut self) -> Result<(), Unsteered> {
        let mut refused = None;
        for own in self.own.iter().filter(|_| self.placeholders.is_empty()) {
            match own.with(|_| Ok(())) {
                Ok(()) => return Ok(()),
                Err(error) => refused = Some(error),
            }
        }
        let Some(refused) = refused else { return Ok(()) };
        let refused = refused.to_string();
        self.add_placeholder().map_err(|why| Unsteered::NotHeld { refused, why: Box::new(why) })
    }

    /// Adds a placeholder, and finds the order of the slots, which shows that the placeholder has joined this group.
    fn add_placeholder(&mut self) -> Result<(), Unsteered> {
        let shown = sock_diag::group(self.address)?;
        let before: BTreeSet<Inode> = shown.into_keys().collect();
        let too_many = || Unsteered::TooMany(before.len());
        let slots: Vec<u16> = (0..u16::try_from(before.len()).map_err(|_| too_many())?).collect();
        let all_others = Program::one_of(&slots).ok_or_else(too_many)?;
        if self.slots.compare(&before).is_err() {
            self.slots = Slots::members(before.into_iter().collect());
        }
        let placeholder = BoundPlaceholder::new(self.address)?.join()?;
        self.is_held_by(placeholder);
        let found = self.attach_program(&all_others).and_then(|()| self.find_order().ok_or(Unsteered::NotFoundOut));
        if found.is_err() {
            self.let_be();
        }
        self.take_order(found?);
        tracing::debug!(address = %self.address, "steered by a listener that was added");
        Ok(())
    }

    /// Moves the placeholder to the last slot: a close moves the last listener, and that should not be a listener that
    /// is wanted. During the move, new connections are steered as before.
    ///
    /// # Errors
    /// Why the placeholder cannot be moved. The group may have no placeholder then.
    pub(super) fn move_placeholder_last(&mut self) -> Result<(), Unsteered> {
        let [placeholder] = &self.placeholders[..] else { return Ok(()) };
        let it = BTreeSet::from([placeholder.inode]);
        if self.slots.last_are(1, &it) {
            return Ok(());
        }
        let right = Program::one_of(&self.slots.throughout(&self.own(), &it, 1));
        let next = BoundPlaceholder::new(self.address)?;
        self.attach_program(&right.ok_or(Unsteered::NoProgram)?)?;
        self.let_placeholders_go();
        self.is_held_by(next.join()?);
        self.direct()
    }

    fn is_held_by(&mut self, placeholder: Placeholder) {
        self.slots.listen(placeholder.inode);
        self.placeholders.push(placeholder);
    }

    /// Makes sure that at least `enough` slots of the live generation stay right whichever departing listeners close
    /// next, in any order. A close moves the last listener, so placeholders are added behind all others to be moved.
    /// `false` if that is not possible.
    pub(super) fn add_stand_ins(&mut self, enough: usize) -> bool {
        // With as many placeholders as departing listeners, no listener that is wanted moves.
        for _ in 0..=self.leaving.len() {
            if self.slots.throughout(&self.own(), &self.leaving, usize::MAX).len() >= enough {
                return true;
            }
            // Placeholders do not help where the order of the slots is not known.
            if self.slots.order().is_none() {
                return false;
            }
            match BoundPlaceholder::new(self.address).and_then(BoundPlaceholder::join) {
                Ok(placeholder) => self.is_held_by(placeholder),
                Err(error) => {
                    tracing::debug!(address = %self.address, %error, "no listener can be added");
                    return false;
                }
            }
        }
        false
    }

    pub(super) fn let_placeholders_go(&mut self) {
        for placeholder in self.placeholders.drain(..) {
            self.slots.close(placeholder.inode);
        }
    }

    pub(super) fn is_placeholder(&self, inode: Inode) -> bool {
        self.placeholders.iter().any(|placeholder| placeholder.inode == inode)
    }
}
