//! The groups of this generation: its listeners, the slot table of each, and what they are steered to.
//!
//! All calls here are system calls of some microseconds, and block.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::model::identity::{Inode, Pid};
use crate::model::message::GroupOrder;
use crate::model::slots::Slots;
use crate::model::steering::{Program, Tier};
use crate::sys::{diag, owner, steering};

/// Whether steering may be tried at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steering {
    Allowed,
    /// Turned off by `CUTOVER_STEERING=off`, so that tests can run both ways.
    Off,
}

/// One listener of ours.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) inode: Inode,
    pub(crate) listener: Arc<TcpListener>,
}

impl Own {
    /// # Errors
    /// What fstat(2) says.
    pub(crate) fn new(listener: Arc<TcpListener>) -> std::io::Result<Own> {
        Ok(Own { inode: crate::sys::socket::inode(&listener)?, listener })
    }
}

/// The group of one address.
#[derive(Debug)]
struct Group {
    address: SocketAddr,
    own: Vec<Own>,
    green: BTreeSet<Inode>,
    slots: Slots,
    /// Why it is not steered, if it is not.
    unsteered: Option<String>,
    /// Somebody joined while green did.
    ambiguous: bool,
    /// Strangers that were named already.
    named: BTreeSet<Inode>,
}

/// The groups of all addresses.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    steering: Steering,
}

impl Groups {
    /// Groups in which only this generation listens, in the order of `listeners`.
    pub(crate) fn new(listeners: Vec<(SocketAddr, Vec<Own>)>, steering: Steering) -> Groups {
        let groups = listeners
            .into_iter()
            .map(|(address, own)| {
                let slots = Slots::in_order(own.iter().map(|o| o.inode).collect());
                let (green, named) = (BTreeSet::new(), BTreeSet::new());
                Group { address, own, green, slots, unsteered: None, ambiguous: false, named }
            })
            .collect();
        Groups { groups, steering }
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.groups.iter().map(|g| g.address).collect()
    }

    /// The order in which this generation's listeners joined each group.
    pub(crate) fn joined(&self) -> Vec<GroupOrder> {
        let order = |g: &Group| g.own.iter().map(|o| o.inode).collect();
        self.groups.iter().map(|g| GroupOrder { address: g.address, listeners: order(g) }).collect()
    }

    /// The order of the slots in each group, where it is known.
    pub(crate) fn order(&self) -> Vec<GroupOrder> {
        let known = |g: &Group| Some(GroupOrder { address: g.address, listeners: g.slots.order()?.to_vec() });
        self.groups.iter().filter_map(known).collect()
    }

    /// Takes the order that the generation before has told, where it knows all of this generation's listeners.
    pub(crate) fn learn(&mut self, told: &[GroupOrder]) {
        for group in &mut self.groups {
            if let Some(told) = told.iter().find(|t| t.address == group.address) {
                let slots = Slots::in_order(told.listeners.clone());
                if group.own.iter().all(|own| slots.contains(own.inode)) {
                    group.slots = slots;
                }
            }
        }
    }

    /// The generation before listened first: at which slots this one stands is not known before that one tells, or all
    /// others are gone.
    pub(crate) fn forget_order(&mut self) {
        for group in &mut self.groups {
            group.slots = Slots::in_order(Vec::new());
        }
    }

    /// How new connections will be moved.
    pub(crate) fn tier(&self) -> Tier {
        match self.groups.iter().all(|g| g.unsteered.is_none()) {
            true => Tier::Steered,
            false if migrates() => Tier::Migrating,
            false => Tier::BestEffort,
        }
    }

    /// Steers every group to this generation, attaching anew: a program of before may lead elsewhere.
    pub(crate) fn gate(&mut self) {
        let steering = self.steering;
        for group in &mut self.groups {
            group.green.clear();
            group.ambiguous = false;
            let gated = group.look(steering).and_then(|()| group.attach(&group.own()));
            group.settle_for(gated);
        }
    }

    /// Looks whether green listens on each address, and at which slots.
    ///
    /// # Errors
    /// Names the address on which it does not listen.
    pub(crate) fn verify(&mut self, green: Pid, told: &[GroupOrder]) -> Result<(), String> {
        let sockets = owner::sockets_of(green).ok();
        for group in &mut self.groups {
            match diag::group(group.address) {
                Ok(shown) => group.find_green(&shown, sockets.as_ref(), told)?,
                // Green's word has to do.
                Err(error) => group.settle_for(Err(error.to_string())),
            }
        }
        Ok(())
    }

    /// Steers all new connections of every group to green. Where that cannot be done, the kernel hashes over both.
    pub(crate) fn cut_over(&mut self) -> Tier {
        for group in self.groups.iter_mut().filter(|g| g.unsteered.is_none()) {
            let moved = group.check().and_then(|()| group.attach(&group.green));
            group.settle_for(moved);
        }
        self.tier()
    }

    /// Steers everything back to this generation; green's listeners are still there.
    pub(crate) fn steer_back(&mut self) {
        for group in self.groups.iter_mut().filter(|g| g.unsteered.is_none()) {
            let back = group.attach(&group.own());
            group.settle_for(back);
        }
    }

    /// Green's listeners are gone, because its process is.
    pub(crate) fn green_is_gone(&mut self) {
        for group in &mut self.groups {
            // They stood behind ours, so none of ours has moved; where strangers stand now is looked at before it matters.
            std::mem::take(&mut group.green).into_iter().for_each(|inode| group.slots.close(inode));
        }
    }

    /// Prepares the close of one listener: a program that is right before and after it. `false` if there is none.
    pub(crate) fn before_close(&mut self, inode: Inode) -> bool {
        let Some(group) = self.groups.iter_mut().find(|g| g.own.iter().any(|o| o.inode == inode)) else { return true };
        if group.unsteered.is_some() || group.green.is_empty() {
            return true;
        }
        let safe = group.slots.while_closing(inode, &group.green);
        match Program::one_of(&safe) {
            Some(program) => {
                let attached = group.attach_program(&program);
                group.settle_for(attached);
                true
            }
            None => false,
        }
    }

    /// Where nothing steers: our listeners begin no new handshakes. Their clients try again after a second, and the next
    /// generation is there. `false` if that is refused somewhere.
    pub(crate) fn ignore_syns(&self) -> bool {
        let unsteered = self.groups.iter().filter(|g| g.unsteered.is_some()).flat_map(|g| &g.own);
        let refused: Vec<_> = unsteered.filter_map(|own| steering::ignore_syns(&own.listener).err()).collect();
        if let Some(error) = refused.first() {
            tracing::warn!(%error, "new handshakes cannot be ignored, closing in a quiet moment");
        }
        refused.is_empty()
    }

    /// Drops the share that the groups have in a listener of ours, so that whoever else holds it closes it.
    pub(crate) fn let_go(&mut self, inode: Inode) {
        for group in &mut self.groups {
            group.own.retain(|o| o.inode != inode);
        }
    }

    /// A listener of ours is closed: steer what is left to green.
    pub(crate) fn after_close(&mut self, inode: Inode) {
        for group in self.groups.iter_mut().filter(|g| g.slots.contains(inode)) {
            group.slots.close(inode);
            // Any listener of the group serves to attach, but we have none any more when the last one is closed.
            if group.unsteered.is_none() && !group.green.is_empty() && !group.own.is_empty() {
                let attached = group.attach(&group.green);
                group.settle_for(attached);
            }
        }
    }

    /// Names listeners that have joined a group and are neither ours nor green's, each once.
    ///
    /// They get no connection as long as the group is steered; they are in the way of the next rollout.
    pub(crate) fn name_strangers(&mut self) {
        for group in &mut self.groups {
            if let Ok(shown) = diag::group(group.address) {
                group.name(&shown);
            }
        }
    }
}

impl Group {
    fn own(&self) -> BTreeSet<Inode> {
        self.own.iter().map(|o| o.inode).collect()
    }

    /// Looks who is in the group before this generation is steered to.
    ///
    /// Strangers that came after our own listeners stand behind them, and do not matter to our slots.
    fn look(&mut self, steering: Steering) -> Result<(), String> {
        if steering == Steering::Off {
            return Err("it is turned off by CUTOVER_STEERING".into());
        }
        let shown = diag::group(self.address).map_err(|error| error.to_string())?;
        self.name(&shown);
        let own = self.own();
        let shown: BTreeSet<Inode> = shown.into_keys().collect();
        if self.slots.compare(&shown).is_ok() {
            return Ok(());
        }
        if !own.is_subset(&shown) {
            return Err("a listener of ours is gone".into());
        }
        let alone = (shown == own).then(|| Slots::members(own.iter().copied().collect()));
        let known = alone.or_else(|| self.slots.prefix(&own));
        let mut slots = known.ok_or("others listen there too, and who stands at which slot is not known")?;
        shown.difference(&own).for_each(|&stranger| slots.listen(stranger));
        self.slots = slots;
        Ok(())
    }

    fn find_green(
        &mut self,
        shown: &BTreeMap<Inode, u32>,
        sockets: Option<&BTreeSet<Inode>>,
        told: &[GroupOrder],
    ) -> Result<(), String> {
        let is_green = |inode: &Inode| sockets.is_none_or(|s| s.contains(inode));
        let new = shown.keys().copied().filter(|inode| !self.slots.contains(*inode));
        let (green, strangers): (BTreeSet<_>, BTreeSet<_>) = new.partition(is_green);
        if green.is_empty() {
            return Err(format!("said that it is ready, but does not listen on {}", self.address));
        }
        let ordered = told.iter().filter(|t| t.address == self.address).flat_map(|t| &t.listeners);
        for &inode in ordered.filter(|inode| green.contains(inode)).chain(&green) {
            if !self.slots.contains(inode) {
                self.slots.listen(inode);
            }
        }
        self.green = green;
        self.name(shown);
        if !strangers.is_empty() && self.unsteered.is_none() {
            // Before or behind green: nobody can tell. Until the cut-over our own slots are still right.
            self.ambiguous = true;
        }
        Ok(())
    }

    /// Looks whether the kernel still shows what the table says.
    fn check(&mut self) -> Result<(), String> {
        let shown = diag::group(self.address).map_err(|error| error.to_string())?;
        self.name(&shown);
        match self.slots.compare(&shown.into_keys().collect()) {
            Ok(()) if !self.ambiguous => Ok(()),
            _ => Err("others have joined or left while the next generation started, so the slots are not known".into()),
        }
    }

    fn name(&mut self, shown: &BTreeMap<Inode, u32>) {
        let own = self.own();
        for (&inode, &uid) in shown {
            if !own.contains(&inode) && !self.green.contains(&inode) && self.named.insert(inode) {
                let who = owner::describe(inode, uid);
                tracing::warn!(address = %self.address, "{who} has joined the group of {} by SO_REUSEPORT", self.address);
            }
        }
    }

    fn attach(&self, wanted: &BTreeSet<Inode>) -> Result<(), String> {
        let program = Program::one_of(&self.slots.of(wanted)).ok_or("the slots are not known")?;
        self.attach_program(&program)
    }

    fn attach_program(&self, program: &Program) -> Result<(), String> {
        let any = self.own.first().ok_or("no listener is left")?;
        steering::attach(&any.listener, program).map_err(|error| error.to_string())
    }

    /// Takes the result of steering: if it failed, says so once, and leaves the group to the kernel's hash.
    fn settle_for(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                if self.unsteered.take().is_some() {
                    tracing::info!(address = %self.address, "steering works again");
                }
            }
            Err(why) => {
                if let Some(any) = self.own.first() {
                    // A program that leads to a wrong slot is worse than none; if it cannot be taken away there is none.
                    let _ = steering::detach(&any.listener);
                }
                if self.unsteered.as_ref() != Some(&why) {
                    let tier = if migrates() { Tier::Migrating } else { Tier::BestEffort };
                    tracing::warn!(address = %self.address, %tier, reason = why, "not steered, working on without");
                }
                self.unsteered = Some(why);
            }
        }
    }
}

/// Whether the kernel takes what waits at a closed listener to another one of its group: `tcp_migrate_req`, ip-sysctl.
pub(crate) fn migrates() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.trim() == "1")
}
