//! The groups of this generation: its listeners, the slot table of each, and what they are steered to.
//!
//! All calls here are system calls of some microseconds, and block.

mod group;
mod listener;
mod placeholder;
mod slot_discovery;
mod steering_setting;
mod supervised;
#[cfg(test)]
mod tests;
mod view;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::handover::GroupOrder;
use crate::model::identity::{Generation, Inode};
use crate::model::rollout::Revocability;
use crate::model::share::Share;
use crate::model::slots::Slots;
use crate::model::steering::{Program, SteeringMode};
use crate::sys::{sock_diag, steering};

pub(crate) use crate::sys::sysctl::migrates;

use self::group::Group;
pub(crate) use self::listener::GroupListener;
pub(crate) use self::steering_setting::Steering;
pub(crate) use self::supervised::KeptListener;
pub(crate) use self::view::{Holders, Shown};

/// The groups of all addresses.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    steering: Steering,
    active: ActiveRollout,
    /// What the next generation has, as it was seen last.
    green: Option<Holders>,
}

/// Which rollout may still change what is steered where: a step of it may come late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ActiveRollout {
    /// The rollout of this generation.
    Open(Generation),
    /// The same, after its last step: all new connections go there.
    CutOver(Generation),
    /// None: it was rolled back, or is about to retire.
    Over,
}

impl ActiveRollout {
    fn check(self, green: Generation) -> Result<(), String> {
        match self {
            ActiveRollout::Open(now) | ActiveRollout::CutOver(now) if now == green => Ok(()),
            ActiveRollout::Open(_) | ActiveRollout::CutOver(_) | ActiveRollout::Over => {
                Err("the rollout is over".into())
            }
        }
    }
}

/// So many times it is looked again where listeners come meanwhile.
const LOOKS: usize = 10;

/// Has `act` use what the kernel shows of the groups together with what `look` finds of the processes that may listen there.
///
/// The look may take long, and no lock is held meanwhile. The look begins after the kernel was asked, so that the owner of
/// each listener is found; where a listener has come since, the look is repeated. Blocks.
pub(crate) fn with_a_look<L, T>(
    groups: &Mutex<Groups>,
    look: impl Fn() -> L,
    act: impl FnOnce(&mut Groups, &Shown, L) -> T,
) -> T {
    let mut before = lock(groups).shown();
    for _ in 1..LOOKS {
        let found = look();
        let mut groups = lock(groups);
        let now = groups.shown();
        if now.adds_nothing_to(&before) {
            return act(&mut groups, &now, found);
        }
        before = now;
    }
    let found = look();
    act(&mut lock(groups), &before, found)
}

/// Locks the groups; a panic elsewhere leaves them as usable as they were.
///
/// What is done while they are locked asks only the kernel and this process: microseconds, or a second at the most for
/// finding the order of the slots.
pub(crate) fn lock(groups: &Mutex<Groups>) -> MutexGuard<'_, Groups> {
    groups.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Groups {
    /// Groups in which only this generation listens, in the order of `listeners`.
    pub(crate) fn new(listeners: Vec<(SocketAddr, Vec<GroupListener>)>, steering: Steering) -> Groups {
        let mut groups: Vec<Group> = listeners.into_iter().map(|(address, own)| Group::new(address, own)).collect();
        if steering == Steering::Elsewhere {
            groups.iter_mut().for_each(|group| group.unsteered = Some("that is done elsewhere".into()));
        }
        Groups { groups, steering, active: ActiveRollout::Over, green: None }
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
    pub(crate) fn tier(&self) -> SteeringMode {
        match self.groups.iter().all(|g| g.unsteered.is_none()) {
            true => SteeringMode::Steered,
            false if migrates() => SteeringMode::Migrating,
            false => SteeringMode::BestEffort,
        }
    }

    /// Steers every group to this generation, attaching anew: a program of before may lead elsewhere.
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

    /// Begins the rollout of this generation: until it is over, its steps may change what is steered where.
    pub(crate) fn gate(&mut self, green: Generation) {
        self.active = ActiveRollout::Open(green);
        self.green = None;
        self.steer_here();
    }

    /// Whether somebody else listens on each address too.
    pub(crate) fn others_listen(&self) -> bool {
        let is_shared = |group: &Group| {
            let shown = sock_diag::group(group.address).unwrap_or_default();
            shown.keys().any(|inode| !group.own().contains(inode))
        };
        self.groups.iter().all(is_shared)
    }

    /// Whether every group can be steered.
    ///
    /// # Errors
    /// Names the first one that cannot, and why.
    pub(crate) fn all_steered(&self) -> Result<(), String> {
        self.groups.iter().try_for_each(Group::is_steered)
    }

    /// Looks whether green listens on each address, and at which slots. `green` says which sockets green has, as far as that
    /// may be known: see [`with_a_look`].
    ///
    /// # Errors
    /// Names the address on which it does not listen.
    pub(crate) fn verify(&mut self, shown: &Shown, green: Option<Holders>, told: &[GroupOrder]) -> Result<(), String> {
        self.green = green;
        for group in &mut self.groups {
            match shown.of(group.address) {
                Ok(shown) => {
                    group.find_green(shown, self.green.as_ref(), told)?;
                    if let Err(why) = group.move_placeholder_last() {
                        group.settle_for(Err(why));
                    }
                }
                // Green's word has to do.
                Err(why) => group.settle_for(Err(why)),
            }
        }
        Ok(())
    }

    /// What the kernel shows of each address.
    fn shown(&self) -> Shown {
        let of = |group: &Group| (group.address, sock_diag::group(group.address).map_err(|error| error.to_string()));
        Shown(self.groups.iter().map(of).collect())
    }

    /// Steers a part of the new connections of every group to green.
    ///
    /// # Errors
    /// That the rollout is over, or has cut over meanwhile: a promotion may overtake a step of the canary. Or the error names the
    /// group that cannot be steered; others may be steered already then.
    pub(crate) fn share(&mut self, green: Generation, share: Share) -> Result<(), String> {
        self.active.check(green)?;
        if self.active == ActiveRollout::CutOver(green) {
            return Err("all new connections go to the next generation already".into());
        }
        self.steer_share(share)
    }

    fn steer_share(&mut self, share: Share) -> Result<(), String> {
        for group in &mut self.groups {
            group.is_steered()?;
            let shared = group.check().and_then(|()| {
                group.share = share;
                group.direct()
            });
            shared.map_err(|why| format!("{} cannot be steered: {why}", group.address))?;
        }
        Ok(())
    }

    /// Steers just the connection from `source` to green, beside the share of the others; `None` ends that.
    ///
    /// # Errors
    /// If the group of `address` cannot be steered, or the rollout is over; and at the end, that nobody can say any more who
    /// has got the connection, because a listener was closed meanwhile and another one has moved.
    pub(crate) fn probe(
        &mut self,
        green: Generation,
        address: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<(), String> {
        let group = self.groups.iter_mut().find(|g| g.address == address).ok_or("it is no address of ours")?;
        match (self.active.check(green), source) {
            // Nobody's program is touched any more.
            (Err(_), None) => return Ok(()),
            (Err(over), Some(_)) => return Err(over),
            (Ok(()), None) if group.source.is_none() => return Ok(()),
            (Ok(()), _) => {}
        }
        group.is_steered()?;
        let ends = source.is_none();
        group.source = source;
        group.has_moved |= ends && group.has_lost();
        group.direct().map_err(|why| format!("{address} cannot be steered: {why}"))?;
        match std::mem::take(&mut group.has_moved) && ends {
            true => Err(format!("listeners of {address} were closed meanwhile")),
            false => Ok(()),
        }
    }

    /// Steers all new connections of every group to green.
    ///
    /// # Errors
    /// That the rollout is over; and of a turn that is to be revocable, names the group that cannot be steered. In a final
    /// one such a group is left to the kernel, which hashes over both.
    pub(crate) fn cut_over(&mut self, green: Generation, turn: Revocability) -> Result<SteeringMode, String> {
        self.active.check(green)?;
        self.active = ActiveRollout::CutOver(green);
        match turn {
            Revocability::Revocable => self.steer_share(Share::ALL)?,
            Revocability::Final => {
                for group in self.groups.iter_mut().filter(|g| g.unsteered.is_none()) {
                    let moved = group.check().and_then(|()| group.attach_green());
                    // Whoever steers anew meanwhile steers there.
                    group.share = Share::ALL;
                    group.settle_for(moved);
                }
            }
        }
        Ok(self.tier())
    }

    /// The point of no return: from now on the programs belong to the close of the listeners.
    pub(crate) fn begin_to_retire(&mut self) {
        self.active = ActiveRollout::Over;
        // A probe may be under way; where all go to green, that is the same.
        for group in self.groups.iter_mut().filter(|g| g.unsteered.is_none()) {
            if group.source.take().is_some() {
                let attached = group.attach_green();
                group.settle_for(attached);
            }
        }
    }

    /// Steers everything back to this generation; green's listeners are still there.
    pub(crate) fn steer_back(&mut self) {
        self.active = ActiveRollout::Over;
        // Where nothing was attached yet, the program of the generation before leads here, and is right.
        for group in self.groups.iter_mut().filter(|g| g.unsteered.is_none() && g.attached.is_some()) {
            // It is about to close its listeners, or is gone, and who listens behind it moves then.
            (group.share, group.source, group.closes) = (Share::NONE, None, usize::MAX);
            let back = group.direct();
            group.settle_for(back);
        }
    }

    /// Green was sent away: its listeners stay for a moment, and get nothing new.
    pub(crate) fn green_leaves(&mut self) {
        for group in &mut self.groups {
            group.leaving.append(&mut group.green);
        }
    }

    /// Whether nobody who was sent away listens any more.
    pub(crate) fn have_left(&mut self) -> bool {
        self.groups.iter_mut().all(Group::have_left)
    }

    /// Green's listeners are gone, because its process is.
    pub(crate) fn green_is_gone(&mut self) {
        for group in &mut self.groups {
            group.lose(&group.green.clone());
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
        let refused: Vec<_> =
            unsteered.filter_map(|own| own.with(|listener| steering::ignore_syns(listener)).err()).collect();
        match refused.first() {
            // Most often the supervisor has steered new ones away already.
            Some(error) if self.steering == Steering::Elsewhere => {
                tracing::debug!(%error, "new handshakes cannot be ignored")
            }
            Some(error) => tracing::warn!(%error, "new handshakes cannot be ignored, closing in a quiet moment"),
            None => {}
        }
        refused.is_empty()
    }

    /// Whether whoever has started this process steers.
    pub(crate) fn are_steered_elsewhere(&self) -> bool {
        self.steering == Steering::Elsewhere
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
                let attached = group.attach_green();
                group.settle_for(attached);
            }
        }
    }

    /// Names listeners that have joined a group and are neither ours nor green's, each once.
    ///
    /// They get no connection as long as the group is steered; they are in the way of the next rollout.
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
