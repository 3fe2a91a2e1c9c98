//! Groups of a supervised program: its listeners join and leave, and are copied when they are needed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::group::Group;
use super::listener::GroupListener;
use super::steering_setting::Steering;
use super::table::{ActiveRollout, Table};
use super::view::{Holders, Shown};
use crate::model::identity::{Generation, Inode};
use crate::model::share::Share;
use crate::model::steering::Program;
use crate::sys::{pidfd_getfd, sock_diag, steering};

/// A copy of a listener of a departing generation, kept open so that the listeners close in our order and not in the
/// order of their program.
#[derive(Debug)]
pub(crate) struct KeptListener {
    pub(crate) inode: Inode,
    _copy: OwnedFd,
}

impl Table {
    /// Groups of these addresses, with no listeners known yet.
    pub(crate) fn watching(addresses: &[SocketAddr], steering: Steering) -> Table {
        let groups = addresses.iter().map(|&address| Group::new(address, vec![])).collect();
        Table { groups, steering, active: ActiveRollout::Over, green: None }
    }

    /// Replaces the addresses. A group whose address is in both lists keeps its state.
    pub(crate) fn listen_on(&mut self, addresses: &[SocketAddr]) {
        let mut before = std::mem::take(&mut self.groups);
        let of = |&address: &SocketAddr| {
            let known = before.iter().position(|group| group.address == address);
            known.map_or_else(|| Group::new(address, vec![]), |at| before.swap_remove(at))
        };
        self.groups = addresses.iter().map(of).collect();
    }

    /// Updates the listeners of the live generation, as far as they may be known.
    ///
    /// Where the owners of the sockets may not be known (`None`), all listeners but departing ones count as those of
    /// the live generation.
    pub(crate) fn see(&mut self, holders: Option<&Holders>) {
        for group in self.at_rest() {
            let shown = sock_diag::group(group.address).unwrap_or_default();
            let others = shown.into_keys().filter(|&inode| !group.is_placeholder(inode));
            group.own = others.filter_map(|inode| own_of(inode, holders)).collect();
        }
    }

    /// Makes green, as the last look found it, the live generation. The listeners of the previous live generation
    /// become departing ones, and get no new connections.
    pub(crate) fn pass_on(&mut self) {
        self.active = ActiveRollout::Over;
        let green = self.green.take();
        for group in &mut self.groups {
            let before: Vec<Inode> = group.own.iter().map(|own| own.inode).collect();
            group.leaving.extend(before);
            group.own =
                std::mem::take(&mut group.green).into_iter().filter_map(|i| own_of(i, green.as_ref())).collect();
            (group.share, group.source, group.closes) = (Share::NONE, None, 0);
            if group.unsteered.is_none() {
                let attached = group.direct();
                group.settle_for(attached);
            }
        }
    }

    /// Updates which processes of the live generation hold its listeners: some processes may have died since the last
    /// look.
    pub(crate) fn renew(&mut self, holders: &Holders) {
        for own in self.groups.iter_mut().flat_map(|group| &mut group.own) {
            if let Some(who) = holders.get(&own.inode) {
                *own = GroupListener::lent(own.inode, who.clone());
            }
        }
    }

    /// Ends the steering of groups in which only the live generation listens: no connection needs to be moved. The
    /// kernel hashes over all its listeners, and listeners that join later get their part at once.
    pub(crate) fn rest(&mut self) {
        for group in self.at_rest() {
            let shown = sock_diag::group(group.address).unwrap_or_default();
            let others = shown.into_keys().filter(|&inode| !group.is_placeholder(inode));
            if others.collect::<BTreeSet<_>>() == group.own() {
                group.let_be();
            }
        }
    }

    /// Closes all placeholders, because no generation will listen: a client that connects should not wait for a
    /// listener that accepts nothing.
    pub(crate) fn stand_down(&mut self) {
        self.groups.iter_mut().filter(|group| !group.placeholders.is_empty()).for_each(Group::let_be);
    }

    /// Whether any of these departing processes still listens. `None`: whether any departing listener is left.
    pub(crate) fn are_leaving(&mut self, holders: Option<&Holders>) -> bool {
        let has = |inode| holders.is_none_or(|holders| holders.contains_key(inode));
        !self.have_left() && self.groups.iter().any(|group| group.leaving.iter().any(has))
    }

    /// The groups in which no connection is being moved. The check is needed because the caller may belong to a
    /// generation that has just passed on the leadership, or that is gone only after the next rollout has begun.
    fn at_rest(&mut self) -> impl Iterator<Item = &mut Group> {
        let is_at_rest = self.active.is_at_rest();
        self.groups.iter_mut().filter(move |group| is_at_rest && group.leaving.is_empty() && group.green.is_empty())
    }

    /// Whether listeners have joined or left that [`Table::follow`] would take in.
    pub(crate) fn have_changed(&self) -> bool {
        let mut steered = self.groups.iter().filter(|group| group.unsteered.is_none());
        steered.any(|group| {
            let shown = sock_diag::group(group.address);
            shown.is_ok_and(|shown| group.slots.compare(&shown.into_keys().collect()).is_err())
        })
    }

    /// Takes in which processes of either generation have died, or begun to listen, in the middle of the rollout of
    /// `generation`. `blue` and `green` are the sockets of the two generations: see [`Groups::look`](super::Groups::look).
    /// Does nothing if the rollout is over: a look may come late.
    pub(crate) fn follow(
        &mut self,
        generation: Generation,
        shown: &Shown,
        blue: Option<Holders>,
        green: Option<Holders>,
    ) {
        if self.active.check(generation).is_err() {
            return;
        }
        for group in self.groups.iter_mut().filter(|group| group.unsteered.is_none()) {
            let Ok(shown) = shown.of(group.address) else { continue };
            let shown: BTreeSet<Inode> = shown.keys().copied().collect();
            let Err(mismatch) = group.slots.compare(&shown) else { continue };
            let has = |of: &Option<Holders>, inode| of.as_ref().is_some_and(|holders| holders.contains_key(&inode));
            let (of_blue, others): (Vec<Inode>, Vec<Inode>) =
                mismatch.strangers.iter().partition(|&&inode| has(&blue, inode));
            // Green's listeners are found by the first look at green; until then none is added here.
            let of_green: Vec<Inode> =
                others.into_iter().filter(|&inode| !group.green.is_empty() && has(&green, inode)).collect();
            let all_or_none = |of: &[Inode]| of.is_empty() || of.len() == mismatch.strangers.len();
            let alike = all_or_none(&of_blue) && all_or_none(&of_green);
            let matters = !(mismatch.missing.is_empty() && of_blue.is_empty() && of_green.is_empty());
            group.own.extend(of_blue.into_iter().filter_map(|inode| own_of(inode, blue.as_ref())));
            group.green.extend(of_green);
            group.take_in(&mismatch, alike);
            if !matters {
                continue;
            }
            let (gone, come) = (mismatch.missing.len(), group.own.len() + group.green.len());
            let steered = group.direct();
            tracing::info!(address = %group.address, gone, listeners = come, "listeners have come or gone, steered anew");
            group.settle_for(steered);
        }
        if green.is_some() {
            self.green = green;
        }
    }

    /// Finds out the slots of all listeners of these departing processes. `false` if the slots could not be found out;
    /// the caller may try again, and nothing has changed for clients.
    pub(crate) fn place(&mut self, holders: &Holders) -> bool {
        for group in self.groups.iter_mut().filter(|group| group.unsteered.is_none()) {
            // Since the leadership was passed on, processes may have died or begun to listen.
            group.reconcile();
            let own = group.own();
            let here: Vec<Inode> =
                group.slots.members_of(|inode| holders.contains_key(&inode) && !own.contains(&inode));
            group.leaving.extend(here);
            group.need_order(&group.leaving.clone());
        }
        self.groups.iter().all(|group| group.unsteered.is_some() || group.slots.order().is_some())
    }

    /// Has the departing listeners of these processes wait for no first byte of their clients any more.
    pub(crate) fn finish_deferred(&self, holders: &Holders) {
        for group in &self.groups {
            for (&inode, who) in group.leaving.iter().filter_map(|inode| Some((inode, holders.get(inode)?))) {
                if let Ok((copy, _)) = pidfd_getfd::copy(who.iter().copied(), inode)
                    && let Err(error) = steering::accept_silent(&copy)
                {
                    tracing::debug!(%error, "the listener waits for first bytes, ignoring");
                }
            }
        }
    }

    /// Copies all listeners of these departing processes, so that a close(2) by their program does not close them. A
    /// shutdown(2) still does, in any order: the program that is attached here is right for any number of such closes.
    pub(crate) fn keep(&mut self, holders: &Holders) -> Vec<KeptListener> {
        let mut kept = Vec::new();
        for group in self.groups.iter_mut().filter(|group| group.unsteered.is_none()) {
            group.closes = usize::MAX;
            group.add_stand_ins(1);
            let attached = group.direct();
            group.settle_for(attached);
            for (&inode, who) in group.leaving.iter().filter_map(|inode| Some((inode, holders.get(inode)?))) {
                match pidfd_getfd::copy(who.iter().copied(), inode) {
                    Ok((copy, _)) => kept.push(KeptListener { inode, _copy: copy }),
                    Err(error) => {
                        tracing::debug!(%error, "the listener cannot be kept open, its program closes it at any time")
                    }
                }
            }
        }
        kept
    }

    /// Takes in which listeners were closed, and prepares for further closes. Departing listeners that do not close
    /// `soon` must not confine new connections to a few of the live generation's listeners: then placeholders are added
    /// so that each listener gets its part, or only one close is expected at a time.
    pub(crate) fn expect_closes(&mut self, soon: bool) {
        for group in self.groups.iter_mut().filter(|group| group.unsteered.is_none() && !group.leaving.is_empty()) {
            group.reconcile();
            group.learn_order();
            let all = group.slots.of(&group.own()).len();
            // If placeholders cannot be added once, `closes` becomes 1, so that it is not tried again at each look.
            if !soon && group.closes > 1 && !group.add_stand_ins(all) {
                group.closes = 1;
            }
            // As long as the slots are not known, the program that was right for many closes stays: there is no better
            // one.
            if let Some(program) = group.asked()
                && group.attached.as_ref() != Some(&program)
            {
                let attached = group.attach_program(&program);
                group.settle_for(attached);
            }
        }
    }

    /// Prepares the close of one departing listener: attaches a program that is right before and after the close.
    pub(crate) fn before_kept_closes(&mut self, kept: &KeptListener) {
        let Some(group) = self.of_leaving(kept.inode) else { return };
        group.reconcile();
        let this = || group.slots.while_closing(kept.inode, &group.own());
        if let Some(program) = Program::one_of(&group.slots_throughout().unwrap_or_else(this))
            && group.unsteered.is_none()
        {
            let attached = group.attach_program(&program);
            group.settle_for(attached);
        }
    }

    /// Whether all processes have closed the listener. If so, steers the group to the live generation. A process that
    /// ends has no memory, by which it would be recognised, a moment before it has no descriptors (`exit_mm` comes
    /// before `exit_files` in do_exit, kernel/exit.c, Linux 6.18): until then the slots are as they were.
    pub(crate) fn has_closed(&mut self, inode: Inode) -> bool {
        let Some(group) = self.of_leaving(inode) else { return true };
        if sock_diag::group(group.address).is_ok_and(|shown| shown.contains_key(&inode)) {
            return false;
        }
        group.leaving.remove(&inode);
        group.slots.close(inode);
        if group.unsteered.is_none() && !group.own.is_empty() {
            let attached = group.direct();
            group.settle_for(attached);
        }
        true
    }

    fn of_leaving(&mut self, inode: Inode) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| group.leaving.contains(&inode))
    }
}

/// The listener `inode` of a generation with these sockets. Where processes may not be looked at (`None`), the listener
/// counts, but has no process to copy it from.
fn own_of(inode: Inode, holders: Option<&Holders>) -> Option<GroupListener> {
    match holders {
        Some(holders) => holders.get(&inode).map(|who| GroupListener::lent(inode, who.clone())),
        None => Some(GroupListener::lent(inode, BTreeSet::new())),
    }
}
