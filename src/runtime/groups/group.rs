//! The group of one address: which listener has which slot, and how new connections are steered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::error::{SteeringError, Unsteered};
use super::listener::GroupListener;
use super::steering_setting::Steering;
use super::view::Holders;
use crate::model::handover::GroupOrder;
use crate::model::identity::Inode;
use crate::model::share::Share;
use crate::model::slots::Slots;
use crate::model::steering::{Program, Split, SteeringMode};
use crate::runtime::offload;
use crate::sys::placeholder::Placeholder;
use crate::sys::sysctl::migrates;
use crate::sys::{sock_diag, socket_owner, steering};

/// The group of one address.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) address: SocketAddr,
    pub(super) own: Vec<GroupListener>,
    pub(super) green: BTreeSet<Inode>,
    /// Departing listeners: the listeners of a generation that leaves or was told to stop. That generation closes them
    /// as soon as no handshake is in flight to them.
    pub(super) leaving: BTreeSet<Inode>,
    /// How many departing listeners, including listeners of a next generation that was given up, may close at any
    /// moment and in any order before a slot of the program points at a wrong listener.
    pub(super) closes: usize,
    pub(super) slots: Slots,
    /// The share of new connections that green gets.
    pub(super) share: Share,
    /// The source of the one connection that goes to green independently of the share: the probe.
    pub(super) source: Option<SocketAddr>,
    /// Listeners whose order among each other was not told. As a set they are at the right slots of the table. Before
    /// we close one of them, its slot must be found out, or the order must be marked as unknown.
    pub(super) untold: BTreeSet<Inode>,
    /// The listeners of the group before green was started.
    before: BTreeSet<Inode>,
    /// Whether a listener was closed since the probe began or ended.
    pub(super) has_moved: bool,
    /// The program that was attached last, if any.
    pub(super) attached: Option<Program>,
    /// Why the group is not steered, if it is not.
    pub(super) unsteered: Option<Unsteered>,
    /// Listeners of this process that get no connections. The program is attached through one of them where no other
    /// listener may be copied; and a close moves them instead of listeners that are wanted.
    pub(super) placeholders: Vec<Placeholder>,
    /// Whether other listeners joined while green did, so that green's slots are not certain.
    pub(super) ambiguous: bool,
    /// Foreign listeners that were logged already.
    pub(super) named: BTreeSet<Inode>,
}

impl Group {
    /// A group in which only `own` listen, in this order.
    pub(super) fn new(address: SocketAddr, own: Vec<GroupListener>) -> Group {
        let slots = Slots::in_order(own.iter().map(|o| o.inode).collect());
        Group {
            address,
            own,
            green: BTreeSet::new(),
            leaving: BTreeSet::new(),
            closes: 0,
            slots,
            share: Share::NONE,
            source: None,
            untold: BTreeSet::new(),
            before: BTreeSet::new(),
            has_moved: false,
            attached: None,
            unsteered: None,
            placeholders: Vec::new(),
            ambiguous: false,
            named: BTreeSet::new(),
        }
    }

    pub(super) fn is_steered(&self) -> Result<(), SteeringError> {
        match &self.unsteered {
            None => Ok(()),
            Some(why) => Err(SteeringError::NotSteered(self.address, why.clone())),
        }
    }

    /// Whether only listeners of this generation are in the group, as far as can be seen.
    pub(super) fn is_left_alone(&self) -> bool {
        let shown = sock_diag::group(self.address);
        let own = self.own();
        shown.is_ok_and(|shown| shown.keys().all(|inode| own.contains(inode) || self.is_placeholder(*inode)))
    }

    pub(super) fn have_left(&mut self) -> bool {
        // If sock_diag fails, the group is not steered either, so its slots do not matter.
        let shown =
            if self.leaving.is_empty() { BTreeMap::new() } else { sock_diag::group(self.address).unwrap_or_default() };
        let (still, left): (_, BTreeSet<Inode>) =
            std::mem::take(&mut self.leaving).into_iter().partition(|inode| shown.contains_key(inode));
        self.leaving = still;
        self.lose(&left);
        self.leaving.is_empty()
    }

    /// Takes in that the listeners `gone` were closed, in an unknown order.
    pub(super) fn lose(&mut self, gone: &BTreeSet<Inode>) {
        self.has_moved |= !gone.is_empty();
        let untold = gone.intersection(&self.untold).count();
        // Unless the listeners that move into the holes are untold as well, wherever the holes are, the order becomes
        // unknown.
        if untold > 0 && !(untold == gone.len() && self.slots.last_are(untold, &self.untold)) {
            self.slots = self.slots.clone().forgotten();
        }
        self.untold.retain(|inode| !gone.contains(inode));
        let after = |order: &mut dyn Iterator<Item = &Inode>| {
            let mut slots = self.slots.clone();
            order.for_each(|inode| slots.close(*inode));
            slots
        };
        let (one, other) = (after(&mut gone.iter()), after(&mut gone.iter().rev()));
        // Where they stood before other listeners, the order of the closes decides which listener moved to which slot.
        self.slots = if one == other { one } else { one.forgotten() };
        self.own.retain(|own| !gone.contains(&own.inode));
        self.green.retain(|inode| !gone.contains(inode));
    }

    pub(super) fn own(&self) -> BTreeSet<Inode> {
        self.own.iter().map(|o| o.inode).collect()
    }

    /// The slots of the live generation that stay right whichever departing listeners close next, for as many closes
    /// ahead as possible. As long as the next generation gets no share, all listeners that joined with it may close as
    /// well.
    pub(super) fn slots_throughout(&self) -> Option<Vec<u16>> {
        let own = self.own();
        let mut closing = self.leaving.clone();
        if self.share == Share::NONE {
            closing.extend(self.slots.members_of(|inode| {
                ![&own, &self.before].iter().any(|known| known.contains(&inode)) && !self.is_placeholder(inode)
            }));
        }
        let ahead = (1..=self.closes.min(closing.len())).rev();
        ahead.map(|closes| self.slots.throughout(&own, &closing, closes)).find(|slots| !slots.is_empty())
    }

    /// Checks which listeners are in the group before new connections are steered to this generation.
    ///
    /// Foreign listeners that joined after our own have later slots, and do not affect ours.
    pub(super) fn look(&mut self, steering: Steering) -> Result<(), Unsteered> {
        let shown = sock_diag::group(self.address)?;
        self.before = shown.keys().copied().collect();
        if steering == Steering::Off {
            return Err(Unsteered::TurnedOff);
        }
        self.name(&shown);
        self.hold()?;
        let own = self.own();
        let shown: BTreeSet<Inode> = sock_diag::group(self.address)?.into_keys().collect();
        if self.slots.compare(&shown).is_ok() {
            let is_known = self.untold.is_empty() && self.slots.of(&own).len() == own.len();
            if !is_known && let Some(found) = self.find_order() {
                self.take_order(found);
            }
            return Ok(());
        }
        if !own.is_subset(&shown) {
            return Err(Unsteered::ListenerGone);
        }
        if shown == own {
            self.slots = Slots::members(own.into_iter().collect());
            self.untold.clear();
        } else if let Some(mut slots) = self.slots.prefix(&own).filter(|_| self.placeholders.is_empty()) {
            shown.difference(&own).for_each(|&stranger| slots.listen(stranger));
            self.slots = slots;
        } else {
            let found = if self.placeholders.is_empty() { None } else { self.find_order() };
            self.take_order(found.ok_or(Unsteered::OthersListen)?);
        }
        self.learn_order();
        Ok(())
    }

    pub(super) fn find_green(
        &mut self,
        shown: &BTreeMap<Inode, u32>,
        sockets: Option<&Holders>,
        told: Option<&GroupOrder>,
    ) -> Result<(), SteeringError> {
        let is_green = |inode: &Inode| sockets.is_none_or(|s| s.contains_key(inode));
        let own = self.own();
        let known = [&self.before, &own, &self.leaving];
        let is_new = |inode: &Inode| !self.is_placeholder(*inode) && !known.iter().any(|known| known.contains(inode));
        let (green, strangers): (BTreeSet<_>, BTreeSet<_>) = shown.keys().copied().filter(is_new).partition(is_green);
        if green.is_empty() {
            return Err(SteeringError::NotListening(self.address));
        }
        let is_placed = |inode: &Inode| self.slots.contains(*inode);
        let told = told.map(|told| &told.listeners[..]).unwrap_or_default();
        let is_told = |inode: &Inode| told.contains(inode);
        let untold = green.iter().filter(|inode| !is_placed(inode) && !is_told(inode));
        let untold: BTreeSet<Inode> = untold.copied().collect();
        if untold.len() > 1 {
            self.untold.extend(untold);
        }
        let certain = green.is_disjoint(&self.untold) && strangers.iter().all(is_placed);
        for &inode in told.iter().filter(|inode| green.contains(inode)).chain(&green) {
            if !self.slots.contains(inode) {
                self.slots.listen(inode);
            }
        }
        self.green = green;
        self.name(shown);
        // Whether the foreign listeners joined before or after green is not known. Until the cut-over our own slots are
        // right all the same.
        self.ambiguous = !strangers.is_empty() && !certain;
        Ok(())
    }

    /// Whether a listener was closed that is still in the slot table.
    pub(super) fn has_lost(&self) -> bool {
        let Ok(shown) = sock_diag::group(self.address) else { return false };
        let compared = self.slots.compare(&shown.into_keys().collect());
        compared.is_err_and(|mismatch| !mismatch.missing.is_empty())
    }

    /// Compares the slot table with the listeners that the kernel shows. If they differ, finds out the order anew.
    pub(super) fn check(&mut self) -> Result<(), Unsteered> {
        let shown = sock_diag::group(self.address)?;
        self.name(&shown);
        if !self.ambiguous && self.slots.compare(&shown.into_keys().collect()).is_ok() {
            return Ok(());
        }
        let found = self.find_order();
        let are_in = |found: &Slots| self.own().union(&self.green).all(|&inode| found.contains(inode));
        let found = found.filter(are_in).ok_or(Unsteered::OthersChanged)?;
        self.take_order(found);
        self.ambiguous = false;
        Ok(())
    }

    /// Logs each foreign listener once. Its owner is looked up on another thread, because that look goes through all
    /// processes and takes long.
    pub(super) fn name(&mut self, shown: &BTreeMap<Inode, u32>) {
        let own = self.own();
        for (&inode, &uid) in shown {
            let ours = own.contains(&inode) || self.green.contains(&inode) || self.is_placeholder(inode);
            let known = ours || self.leaving.contains(&inode);
            if !known && self.named.insert(inode) {
                let address = self.address;
                offload::detach(move || {
                    let who = socket_owner::describe(inode, uid);
                    tracing::warn!(%address, "{who} has joined the group of {address} by SO_REUSEPORT");
                });
            }
        }
    }

    pub(super) fn attach(&mut self, wanted: &BTreeSet<Inode>) -> Result<(), Unsteered> {
        let program = Program::one_of(&self.slots.of(wanted)).ok_or(Unsteered::SlotsUnknown)?;
        self.attach_program(&program)
    }

    pub(super) fn attach_green(&mut self) -> Result<(), Unsteered> {
        self.attach(&self.green.clone())
    }

    /// The program for the current share and source; `None` if the slots are not known, or too many.
    pub(super) fn asked(&self) -> Option<Program> {
        let green = self.slots.of(&self.green);
        let blue = self.slots_throughout().unwrap_or_else(|| self.slots.of(&self.own()));
        Program::split(&Split { source: self.source, share: self.share, green: &green, blue: &blue })
    }

    /// Attaches the program for the current share and source.
    pub(super) fn direct(&mut self) -> Result<(), Unsteered> {
        let program = self.asked().ok_or(Unsteered::NoProgram)?;
        self.attach_program(&program)
    }

    pub(super) fn attach_program(&mut self, program: &Program) -> Result<(), Unsteered> {
        if let Some(placeholder) = self.placeholders.first() {
            steering::attach(placeholder, program)?;
            self.attached = Some(program.clone());
            return Ok(());
        }
        let mut result = Err(Unsteered::NoListener);
        // Any listener of the group can attach the program. A listener of another process may be gone.
        for own in &self.own {
            result = own.with(|listener| steering::attach(listener, program)).map_err(Unsteered::from);
            if result.is_ok() {
                self.attached = Some(program.clone());
                break;
            }
        }
        result
    }

    /// Detaches the program, and closes the placeholders.
    pub(super) fn let_be(&mut self) {
        self.attached = None;
        // If the detach fails, no program is attached.
        let _ = match self.placeholders.first() {
            Some(placeholder) => steering::detach(placeholder).is_ok(),
            None => self.own.iter().any(|own| own.with(|listener| steering::detach(listener)).is_ok()),
        };
        // The placeholders go at once: without a program, the kernel's hash picks them too.
        self.let_placeholders_go();
    }

    /// Takes the result of steering. A failure is logged once, and leaves the group to the kernel's hash.
    pub(super) fn settle_for(&mut self, result: Result<(), Unsteered>) {
        match result {
            Ok(()) => {
                if self.unsteered.take().is_some() {
                    tracing::info!(address = %self.address, "steering works again");
                }
            }
            Err(why) => {
                // A program that returns a wrong slot is worse than no program.
                self.let_be();
                let tier = if migrates() { SteeringMode::Migrating } else { SteeringMode::BestEffort };
                match &self.unsteered {
                    None => {
                        tracing::warn!(address = %self.address, %tier, reason = %why, "not steered, going on without steering");
                    }
                    // Under `cutover run` the reason names other processes each time, so a changed reason is no
                    // warning.
                    Some(before) if *before != why => {
                        tracing::debug!(address = %self.address, %tier, reason = %why, "still not steered");
                    }
                    Some(_) => {}
                }
                self.unsteered = Some(why);
            }
        }
    }
}
