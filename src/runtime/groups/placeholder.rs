//! Listeners of this process in a group of others, to which no connection comes: by one of them a group is steered of whose
//! listeners no copy may be had, and others are moved by a close in the place of those that are wanted.

use std::collections::BTreeSet;
use std::io;

use super::group::Group;
use crate::model::identity::Inode;
use crate::model::slots::Slots;
use crate::model::steering::Program;
use crate::sys::placeholder::{BoundPlaceholder, Placeholder};
use crate::sys::sock_diag;

impl Group {
    /// Sees to it that a program can be attached.
    ///
    /// # Errors
    /// Why no listener of ours can be copied, if none can be added either.
    pub(super) fn hold(&mut self) -> Result<(), String> {
        let mut refused = None;
        for own in self.own.iter().filter(|_| self.placeholders.is_empty()) {
            match own.with(|_| Ok(())) {
                Ok(()) => return Ok(()),
                Err(error) => refused = Some(error),
            }
        }
        let Some(refused) = refused else { return Ok(()) };
        self.add_placeholder().map_err(|why| format!("{refused}, and no other one can be added: {why}"))
    }

    /// Adds a listener, and looks whether it is this group that is held by it.
    fn add_placeholder(&mut self) -> Result<(), String> {
        let shown = sock_diag::group(self.address).map_err(said)?;
        let before: BTreeSet<Inode> = shown.into_keys().collect();
        let slots: Vec<u16> = (0..u16::try_from(before.len()).map_err(|error| error.to_string())?).collect();
        let all_others = Program::one_of(&slots).ok_or_else(|| format!("{} listen there", before.len()))?;
        if self.slots.compare(&before).is_err() {
            self.slots = Slots::members(before.into_iter().collect());
        }
        let placeholder = BoundPlaceholder::new(self.address).map_err(said)?.join().map_err(said)?;
        self.is_held_by(placeholder);
        let unknown = || "who stands at which slot cannot be found out".to_owned();
        let found = self.attach_program(&all_others).and_then(|()| self.find_order().ok_or_else(unknown));
        if found.is_err() {
            self.let_be();
        }
        self.take_order(found?);
        tracing::debug!(address = %self.address, "steered by a listener that was added");
        Ok(())
    }

    /// Has the listener that holds the group stand behind all others: a close moves the last one, and who is wanted should
    /// not be moved. Until then all goes where it went.
    ///
    /// # Errors
    /// Why it cannot be. The group may be held by nothing then.
    pub(super) fn move_placeholder_last(&mut self) -> Result<(), String> {
        let [placeholder] = &self.placeholders[..] else { return Ok(()) };
        let it = BTreeSet::from([placeholder.inode]);
        if self.slots.last_are(1, &it) {
            return Ok(());
        }
        let right = Program::one_of(&self.slots.throughout(&self.own(), &it, 1));
        let next = BoundPlaceholder::new(self.address).map_err(said)?;
        self.attach_program(&right.ok_or("the slots are not known, or too many")?)?;
        self.let_placeholders_go();
        self.is_held_by(next.join().map_err(said)?);
        self.direct()
    }

    fn is_held_by(&mut self, placeholder: Placeholder) {
        self.slots.listen(placeholder.inode);
        self.placeholders.push(placeholder);
    }

    /// Sees to it that so many of the live generation's slots stay right whichever of those that leave are closed next, and in
    /// whichever order: a close moves the last one, so that others are added to be moved. `false` if that cannot be.
    pub(super) fn add_stand_ins(&mut self, enough: usize) -> bool {
        // Behind as many as leave everybody stays where he is.
        for _ in 0..=self.leaving.len() {
            if self.slots.throughout(&self.own(), &self.leaving, usize::MAX).len() >= enough {
                return true;
            }
            // What would be added to slots that are not known?
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

fn said(error: io::Error) -> String {
    error.to_string()
}
