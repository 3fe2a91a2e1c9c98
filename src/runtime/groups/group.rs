//! The group of one address: who stands at which slot, and what is steered where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{GroupListener, Holders, Steering, migrates};
use crate::model::handover::GroupOrder;
use crate::model::identity::Inode;
use crate::model::share::Share;
use crate::model::slots::Slots;
use crate::model::steering::{Program, Split, SteeringMode};
use crate::runtime::offload;
use crate::sys::placeholder::Placeholder;
use crate::sys::{sock_diag, socket_owner, steering};

/// The group of one address.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) address: SocketAddr,
    pub(super) own: Vec<GroupListener>,
    pub(super) green: BTreeSet<Inode>,
    /// Listeners of an earlier green that was sent away and closes them as soon as nothing is on its way to them.
    pub(super) leaving: BTreeSet<Inode>,
    /// So many of those that leave, or that a next generation has which was given up, may be closed by whoever has them, at
    /// any moment, and nobody is led astray.
    pub(super) closes: usize,
    pub(super) slots: Slots,
    /// What green gets of the new connections.
    pub(super) share: Share,
    /// The one connection that goes to green whatever the share is.
    pub(super) source: Option<SocketAddr>,
    /// These stand in the table in an order that was not told, as a whole at the right slots. Before one of them is closed
    /// by us it must be known, or known to be unknown.
    pub(super) untold: BTreeSet<Inode>,
    /// Those that listened before green was started.
    before: BTreeSet<Inode>,
    /// A listener was closed since the probe began or ended.
    pub(super) has_moved: bool,
    /// The program that was attached last, if there is one.
    pub(super) attached: Option<Program>,
    /// Why it is not steered, if it is not.
    pub(super) unsteered: Option<String>,
    /// Listeners of this process to which nothing comes: the group is steered by them where no copy of another one may be
    /// had, and they stand in for those that would be moved by a close.
    pub(super) placeholders: Vec<Placeholder>,
    /// Somebody joined while green did.
    pub(super) ambiguous: bool,
    /// Strangers that were named already.
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

    pub(super) fn is_steered(&self) -> Result<(), String> {
        match &self.unsteered {
            None => Ok(()),
            Some(why) => Err(format!("{} is not steered: {why}", self.address)),
        }
    }

    pub(super) fn have_left(&mut self) -> bool {
        // Where the kernel does not tell, nothing is steered either, and no slot matters.
        let shown =
            if self.leaving.is_empty() { BTreeMap::new() } else { sock_diag::group(self.address).unwrap_or_default() };
        let (still, left): (_, BTreeSet<Inode>) =
            std::mem::take(&mut self.leaving).into_iter().partition(|inode| shown.contains_key(inode));
        self.leaving = still;
        self.lose(&left);
        self.leaving.is_empty()
    }

    /// These were closed, nobody knows in which order.
    pub(super) fn lose(&mut self, gone: &BTreeSet<Inode>) {
        self.has_moved |= !gone.is_empty();
        let untold = gone.intersection(&self.untold).count();
        // Those that come into the holes, wherever these are, are such as well, or nobody knows who stands where.
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
        // Where they stood before others, the order says who has moved where.
        self.slots = if one == other { one } else { one.forgotten() };
        self.own.retain(|own| !gone.contains(&own.inode));
        self.green.retain(|inode| !gone.contains(inode));
    }

    pub(super) fn own(&self) -> BTreeSet<Inode> {
        self.own.iter().map(|o| o.inode).collect()
    }

    /// The slots of the live generation that are right whichever of those that leave are closed next; of as many closes
    /// ahead as can be. As long as the next generation gets nothing, all that came with it may leave as well.
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

    /// Looks who is in the group before this generation is steered to.
    ///
    /// Strangers that came after our own listeners stand behind them, and do not matter to our slots.
    pub(super) fn look(&mut self, steering: Steering) -> Result<(), String> {
        let shown = sock_diag::group(self.address).map_err(|error| error.to_string())?;
        self.before = shown.keys().copied().collect();
        if steering == Steering::Off {
            return Err("it is turned off by CUTOVER_STEERING".into());
        }
        self.name(&shown);
        self.hold()?;
        let own = self.own();
        let shown: BTreeSet<Inode> =
            sock_diag::group(self.address).map_err(|error| error.to_string())?.into_keys().collect();
        if self.slots.compare(&shown).is_ok() {
            let is_known = self.untold.is_empty() && self.slots.of(&own).len() == own.len();
            if !is_known && let Some(found) = self.find_order() {
                self.take_order(found);
            }
            return Ok(());
        }
        if !own.is_subset(&shown) {
            return Err("a listener of ours is gone".into());
        }
        if shown == own {
            self.slots = Slots::members(own.into_iter().collect());
            self.untold.clear();
        } else if let Some(mut slots) = self.slots.prefix(&own).filter(|_| self.placeholders.is_empty()) {
            shown.difference(&own).for_each(|&stranger| slots.listen(stranger));
            self.slots = slots;
        } else {
            let found = if self.placeholders.is_empty() { None } else { self.find_order() };
            self.take_order(found.ok_or("others listen there too, and who stands at which slot is not known")?);
        }
        self.learn_order();
        Ok(())
    }

    pub(super) fn find_green(
        &mut self,
        shown: &BTreeMap<Inode, u32>,
        sockets: Option<&Holders>,
        told: &[GroupOrder],
    ) -> Result<(), String> {
        let is_green = |inode: &Inode| sockets.is_none_or(|s| s.contains_key(inode));
        let own = self.own();
        let known = [&self.before, &own, &self.leaving];
        let is_new = |inode: &Inode| !self.is_placeholder(*inode) && !known.iter().any(|known| known.contains(inode));
        let (green, strangers): (BTreeSet<_>, BTreeSet<_>) = shown.keys().copied().filter(is_new).partition(is_green);
        if green.is_empty() {
            return Err(format!("said that it is ready, but does not listen on {}", self.address));
        }
        let is_placed = |inode: &Inode| self.slots.contains(*inode);
        let is_told = |inode: &Inode| told.iter().any(|order| order.listeners.contains(inode));
        let untold = green.iter().filter(|inode| !is_placed(inode) && !is_told(inode));
        let untold: BTreeSet<Inode> = untold.copied().collect();
        if untold.len() > 1 {
            self.untold.extend(untold);
        }
        let certain = green.is_disjoint(&self.untold) && strangers.iter().all(is_placed);
        let ordered = told.iter().filter(|t| t.address == self.address).flat_map(|t| &t.listeners);
        for &inode in ordered.filter(|inode| green.contains(inode)).chain(&green) {
            if !self.slots.contains(inode) {
                self.slots.listen(inode);
            }
        }
        self.green = green;
        self.name(shown);
        // Strangers before or behind green: nobody has told. Until the cut-over our own slots are right all the same.
        self.ambiguous = !strangers.is_empty() && !certain;
        Ok(())
    }

    /// Whether a listener was closed that the table still has.
    pub(super) fn has_lost(&self) -> bool {
        let Ok(shown) = sock_diag::group(self.address) else { return false };
        let compared = self.slots.compare(&shown.into_keys().collect());
        compared.is_err_and(|mismatch| !mismatch.missing.is_empty())
    }

    /// Looks whether the kernel still shows what the table says, and if not, who stands where by now.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let shown = sock_diag::group(self.address).map_err(|error| error.to_string())?;
        self.name(&shown);
        if !self.ambiguous && self.slots.compare(&shown.into_keys().collect()).is_ok() {
            return Ok(());
        }
        let found = self.find_order();
        let are_in = |found: &Slots| self.own().union(&self.green).all(|&inode| found.contains(inode));
        let found = found.filter(are_in).ok_or(
            "others have joined or left while the next generation started, and at which slots it stands is not known",
        )?;
        self.take_order(found);
        self.ambiguous = false;
        Ok(())
    }

    /// Names each stranger once, in the log. Who has a socket is looked up among all processes, which takes its time: not here.
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

    pub(super) fn attach(&mut self, wanted: &BTreeSet<Inode>) -> Result<(), String> {
        let program = Program::one_of(&self.slots.of(wanted)).ok_or("the slots are not known")?;
        self.attach_program(&program)
    }

    pub(super) fn attach_green(&mut self) -> Result<(), String> {
        self.attach(&self.green.clone())
    }

    /// What the share and the source ask for, as far as it is known who stands where.
    pub(super) fn asked(&self) -> Option<Program> {
        let green = self.slots.of(&self.green);
        let blue = self.slots_throughout().unwrap_or_else(|| self.slots.of(&self.own()));
        Program::split(&Split { source: self.source, share: self.share, green: &green, blue: &blue })
    }

    /// Attaches what the share and the source ask for.
    pub(super) fn direct(&mut self) -> Result<(), String> {
        let program = self.asked().ok_or("the slots are not known, or too many")?;
        self.attach_program(&program)
    }

    pub(super) fn attach_program(&mut self, program: &Program) -> Result<(), String> {
        if let Some(placeholder) = self.placeholders.first() {
            steering::attach(placeholder, program).map_err(|error| error.to_string())?;
            self.attached = Some(program.clone());
            return Ok(());
        }
        let mut result = Err("no listener is left".to_owned());
        // Any listener of the group serves; one that somebody else has may be gone.
        for own in &self.own {
            result = own.with(|listener| steering::attach(listener, program)).map_err(|error| error.to_string());
            if result.is_ok() {
                self.attached = Some(program.clone());
                break;
            }
        }
        result
    }

    /// Takes the program away, and what the group was held by.
    pub(super) fn let_be(&mut self) {
        self.attached = None;
        // If it cannot be taken away there is none.
        let _ = match self.placeholders.first() {
            Some(placeholder) => steering::detach(placeholder).is_ok(),
            None => self.own.iter().any(|own| own.with(|listener| steering::detach(listener)).is_ok()),
        };
        // At once: without a program they are hashed to.
        self.let_placeholders_go();
    }

    /// Takes the result of steering: if it failed, says so once, and leaves the group to the kernel's hash.
    pub(super) fn settle_for(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                if self.unsteered.take().is_some() {
                    tracing::info!(address = %self.address, "steering works again");
                }
            }
            Err(why) => {
                // A program that leads to a wrong slot is worse than none.
                self.let_be();
                let tier = if migrates() { SteeringMode::Migrating } else { SteeringMode::BestEffort };
                match &self.unsteered {
                    None => {
                        tracing::warn!(address = %self.address, %tier, reason = why, "not steered, working on without");
                    }
                    // Of a program that is supervised it names other processes each time.
                    Some(before) if *before != why => {
                        tracing::debug!(address = %self.address, %tier, reason = why, "still not steered");
                    }
                    Some(_) => {}
                }
                self.unsteered = Some(why);
            }
        }
    }
}
