//! The groups of all addresses: what each of them is steered to, and the operations of a generation that listens by
//! itself. The functions here block: see [`Groups`](super::Groups).

use std::net::SocketAddr;

use super::error::{SteeringError, Unsteered};
use super::group::Group;
use super::listener::GroupListener;
use super::steering_setting::Steering;
use super::view::{Holders, Shown};
use crate::model::handover::GroupOrder;
use crate::model::identity::{Generation, Inode};
use crate::model::rollout::Revocability;
use crate::model::share::Share;
use crate::model::slots::Slots;
use crate::model::steering::{Program, SteeringMode};
use crate::sys::sysctl::migrates;
use crate::sys::{sock_diag, steering};

/// The groups of all addresses.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) groups: Vec<Group>,
    pub(super) steering: Steering,
    pub(super) active: ActiveRollout,
    /// The sockets of the next generation, as the last look found them.
    pub(super) green: Option<Holders>,
}

/// Which rollout may still change the steering. The check is needed because a step of a rollout may arrive late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ActiveRollout {
    /// The rollout of this generation, before its first steering program is attached.
    Gating(Generation),
    /// The rollout of this generation.
    Open(Generation),
    /// The rollout of this generation after its last step: all new connections go to the next generation.
    CutOver(Generation),
    /// No rollout: the rollout was rolled back, or this generation is about to retire.
    Over,
}

impl ActiveRollout {
    pub(super) fn check(self, green: Generation) -> Result<(), SteeringError> {
        match self {
            ActiveRollout::Open(now) | ActiveRollout::CutOver(now) if now == green => Ok(()),
            ActiveRollout::Gating(_) | ActiveRollout::Open(_) | ActiveRollout::CutOver(_) | ActiveRollout::Over => {
                Err(SteeringError::Over)
            }
        }
    }

    /// Whether no rollout has attached a steering program.
    pub(super) fn is_at_rest(self) -> bool {
        match self {
            ActiveRollout::Gating(_) | ActiveRollout::Over => true,
            ActiveRollout::Open(_) | ActiveRollout::CutOver(_) => false,
        }
    }
}

impl Table {
    /// Groups in which only this generation listens, in the order of `listeners`.
    pub(crate) fn new(listeners: Vec<(SocketAddr, Vec<GroupListener>)>, steering: Steering) -> Table {
        let mut groups: Vec<Group> = listeners.into_iter().map(|(address, own)| Group::new(address, own)).collect();
        if steering == Steering::Elsewhere {
            groups.iter_mut().for_each(|group| group.unsteered = Some(Unsteered::Elsewhere));
        }
        Table { groups, steering, active: ActiveRollout::Over, green: None }
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
        self.groups.iter().filter(|g| g.untold.is_empty()).filter_map(known).collect()
    }

    /// Takes the order of the slots from the previous generation, for each group in which that order names all of this
    /// generation's listeners.
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

    /// Forgets the order of the slots: the previous generation listened first. The slots of this generation are not
    /// known before the previous generation tells them, or before all other listeners are gone.
    pub(crate) fn forget_order(&mut self) {
        for group in &mut self.groups {
            group.slots = Slots::in_order(Vec::new());
        }
    }

    /// How new connections will be moved.
    pub(crate) fn tier(&self) -> SteeringMode {
        match self.groups.iter().all(|g| g.unsteered.is_none()) {
            true => SteeringMode::Steered,
            false if migrates() => SteeringMode::Migrating,
            false => SteeringMode::BestEffort,
        }
    }

    /// Steers every group to this generation. A program is attached anew, because an earlier program may return other
    /// slots.
    pub(crate) fn steer_here(&mut self) {
        let steering = self.steering;
        if steering == Steering::Elsewhere {
            return;
        }
        for group in &mut self.groups {
            group.green.clear();
            (group.share, group.source, group.closes) = (Share::NONE, None, 0);
            group.ambiguous = false;
            let gated = group.look(steering).and_then(|()| group.direct());
            group.settle_for(gated);
        }
    }

    /// Begins the rollout of this generation: from now on, steps of earlier rollouts change nothing.
    pub(crate) fn begin(&mut self, green: Generation) {
        self.active = ActiveRollout::Gating(green);
        self.green = None;
    }

    /// Steers every group to this generation. Until the rollout is over, its steps may change the steering.
    ///
    /// # Errors
    /// If the rollout of `green` is over, or has passed the gate already.
    pub(crate) fn gate(&mut self, green: Generation) -> Result<(), SteeringError> {
        if self.active != ActiveRollout::Gating(green) {
            return Err(SteeringError::Over);
        }
        self.active = ActiveRollout::Open(green);
        self.steer_here();
        Ok(())
    }

    /// Whether other listeners than our own are in the group of an address.
    pub(crate) fn others_listen(&self) -> bool {
        self.groups.iter().any(|group| !group.is_left_alone())
    }

    /// Whether every group can be steered.
    ///
    /// # Errors
    /// Names the first group that cannot be steered, and why.
    pub(crate) fn all_steered(&self) -> Result<(), SteeringError> {
        self.groups.iter().try_for_each(Group::is_steered)
    }

    /// Checks whether `green` listens on each address, and at which slots. `holders` are the sockets of green, or `None`
    /// where they may not be known: see [`Groups::look`](super::Groups::look). A green that tells where it listens
    /// (`told`) may leave out addresses: their groups stay with this generation.
    ///
    /// # Errors
    /// If the rollout is over. Otherwise names the address on which green does not listen.
    pub(crate) fn verify(
        &mut self,
        green: Generation,
        shown: &Shown,
        holders: Option<Holders>,
        told: Option<&[GroupOrder]>,
    ) -> Result<(), SteeringError> {
        self.active.check(green)?;
        self.green = holders;
        for group in &mut self.groups {
            let told = told.map(|told| told.iter().find(|told| told.address == group.address));
            if told == Some(None) {
                let address = group.address;
                tracing::warn!(generation = %green, %address, "the next generation does not listen on {address}, which closes when this generation retires");
                continue;
            }
            let told = told.flatten();
            match shown.of(group.address) {
                Ok(shown) => {
                    group.find_green(shown, self.green.as_ref(), told)?;
                    if let Err(why) = group.move_placeholder_last() {
                        group.settle_for(Err(why));
                    }
                }
                // Without sock_diag, green's readiness notification is all there is.
                Err(why) => group.settle_for(Err(why)),
            }
        }
        Ok(())
    }

    /// What the kernel shows of each address.
    pub(super) fn shown(&self) -> Shown {
        let of = |group: &Group| (group.address, sock_diag::group(group.address).map_err(Unsteered::from));
        Shown(self.groups.iter().map(of).collect())
    }

    /// Steers a part of the new connections of every group to green.
    ///
    /// # Errors
    /// If the rollout is over, or has cut over in the meantime (a promotion may overtake a step of the canary).
    /// Otherwise the error names the group that cannot be steered; other groups may be steered already then.
    pub(crate) fn share(&mut self, green: Generation, share: Share) -> Result<(), SteeringError> {
        self.active.check(green)?;
        if self.active == ActiveRollout::CutOver(green) {
            return Err(SteeringError::CutOverBefore);
        }
        self.steer_share(share)
    }

    fn steer_share(&mut self, share: Share) -> Result<(), SteeringError> {
        for group in &mut self.groups {
            group.is_steered()?;
            if group.green.is_empty() {
                continue;
            }
            let shared = group.check().and_then(|()| {
                group.share = share;
                group.direct()
            });
            shared.map_err(|why| SteeringError::CannotBeSteered(group.address, why))?;
        }
        Ok(())
    }

    /// Steers the connection from `source` to green, independently of the share of the other connections. `None` ends
    /// this.
    ///
    /// # Errors
    /// If the group of `address` cannot be steered, or the rollout is over. At the end (`None`): if a listener was
    /// closed during the probe and another listener has moved, so that it is unknown which generation got the
    /// connection.
    pub(crate) fn probe(
        &mut self,
        green: Generation,
        address: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<(), SteeringError> {
        // Only green listens on another address.
        let Some(group) = self.groups.iter_mut().find(|g| g.address == address) else {
            return self.active.check(green);
        };
        match (self.active.check(green), source) {
            // The rollout is over, so its steps change no program any more.
            (Err(_), None) => return Ok(()),
            (Err(over), Some(_)) => return Err(over),
            (Ok(()), None) if group.source.is_none() => return Ok(()),
            (Ok(()), _) => {}
        }
        group.is_steered()?;
        let ends = source.is_none();
        group.source = source;
        group.has_moved |= ends && group.has_lost();
        group.direct().map_err(|why| SteeringError::CannotBeSteered(address, why))?;
        match std::mem::take(&mut group.has_moved) && ends {
            true => Err(SteeringError::ClosedMeanwhile(address)),
            false => Ok(()),
        }
    }

    /// Steers all new connections of every group to green.
    ///
    /// # Errors
    /// If the rollout is over. For [`Revocability::Revocable`], the error also names the group that cannot be steered.
    /// For [`Revocability::Final`], such a group is left to the kernel, which hashes over both generations.
    pub(crate) fn cut_over(&mut self, green: Generation, turn: Revocability) -> Result<SteeringMode, SteeringError> {
        self.active.check(green)?;
        self.active = ActiveRollout::CutOver(green);
        match turn {
            Revocability::Revocable => self.steer_share(Share::ALL)?,
            Revocability::Final => {
                for group in self.groups.iter_mut().filter(|g| g.unsteered.is_none() && !g.green.is_empty()) {
                    let moved = group.check().and_then(|()| group.attach_green());
                    // Any later call that attaches a program by the share steers to green, too.
                    group.share = Share::ALL;
                    group.settle_for(moved);
                }
            }
        }
        Ok(self.tier())
    }

    /// The point of no return: from now on only the close of the listeners attaches programs.
    pub(crate) fn begin_to_retire(&mut self) {
        self.active = ActiveRollout::Over;
        // A probe may be under way. Steering all connections to green does the same for its connection.
        for group in self.groups.iter_mut().filter(|g| g.unsteered.is_none()) {
            if group.source.take().is_some() {
                let attached = group.attach_green();
                group.settle_for(attached);
            }
        }
    }

    /// Steers all new connections back to this generation. Green's listeners are still open.
    pub(crate) fn steer_back(&mut self) {
        self.active = ActiveRollout::Over;
        // Where this process has attached no program yet, the program of the previous generation returns this
        // generation's slots, and stays.
        for group in self.groups.iter_mut().filter(|g| g.unsteered.is_none() && g.attached.is_some()) {
            // Green is about to close its listeners, or is gone; listeners at later slots move then.
            (group.share, group.source, group.closes) = (Share::NONE, None, usize::MAX);
            let back = group.direct();
            group.settle_for(back);
        }
    }

    /// Records that green was told to stop: its listeners stay open for a moment, and get no new connections.
    pub(crate) fn green_leaves(&mut self) {
        for group in &mut self.groups {
            group.leaving.append(&mut group.green);
        }
    }

    /// Whether all listeners of generations that were told to stop are closed.
    pub(crate) fn have_left(&mut self) -> bool {
        self.groups.iter_mut().all(Group::have_left)
    }

    /// Removes green's listeners from the tables: its process is gone, and so are they.
    pub(crate) fn green_is_gone(&mut self) {
        for group in &mut self.groups {
            group.lose(&group.green.clone());
        }
    }

    /// Prepares the close of one listener: attaches a program that is right before and after the close. `false` if no
    /// such program exists.
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

    /// In the groups that are not steered, and in those in which only this generation listens, has our listeners ignore
    /// new SYNs. The clients send the SYN again after a second, and reach the next generation, or are refused by the
    /// kernel. `false` if the kernel refuses this for any listener.
    pub(crate) fn ignore_syns(&self) -> bool {
        let unsteered = self.groups.iter().filter(|g| g.unsteered.is_some() || g.is_left_alone()).flat_map(|g| &g.own);
        let refused: Vec<_> =
            unsteered.filter_map(|own| own.with(|listener| steering::ignore_syns(listener)).err()).collect();
        match refused.first() {
            // Most often the supervisor has steered new handshakes away already.
            Some(error) if self.steering == Steering::Elsewhere => {
                tracing::debug!(%error, "new handshakes cannot be ignored")
            }
            Some(error) => tracing::warn!(%error, "new handshakes cannot be ignored, closing when none is in flight"),
            None => {}
        }
        refused.is_empty()
    }

    /// Whether the process that started this one does the steering.
    pub(crate) fn are_steered_elsewhere(&self) -> bool {
        self.steering == Steering::Elsewhere
    }

    /// Drops the reference that the groups hold to a listener of ours, so that dropping the last other reference closes
    /// the listener.
    pub(crate) fn let_go(&mut self, inode: Inode) {
        for group in &mut self.groups {
            group.own.retain(|o| o.inode != inode);
        }
    }

    /// Records that a listener of ours is closed, and steers the groups that had it to green.
    pub(crate) fn after_close(&mut self, inode: Inode) {
        for group in self.groups.iter_mut().filter(|g| g.slots.contains(inode)) {
            group.slots.close(inode);
            // Any listener of the group can attach a program, but none is ours any more when our last one is closed.
            if group.unsteered.is_none() && !group.green.is_empty() && !group.own.is_empty() {
                let attached = group.attach_green();
                group.settle_for(attached);
            }
        }
    }

    /// Logs each listener that has joined a group and is neither ours nor green's, once.
    ///
    /// Such listeners get no connections as long as the group is steered, but they are in the way of the next rollout.
    pub(crate) fn name_strangers(&mut self) {
        if self.steering == Steering::Elsewhere {
            return;
        }
        for group in &mut self.groups {
            if let Ok(shown) = sock_diag::group(group.address) {
                group.name(&shown);
            }
        }
    }
}
