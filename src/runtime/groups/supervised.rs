//! Groups of a program that is supervised: its listeners come and go, and are copied when they are needed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::group::Group;
use super::{ActiveRollout, GroupListener, Groups, Holders, Shown, Steering};
use crate::model::identity::Inode;
use crate::model::share::Share;
use crate::model::steering::Program;
use crate::sys::{pidfd_getfd, sock_diag};

/// A listener of a generation that leaves, kept open so that it is closed in our order and not in its own.
#[derive(Debug)]
pub(crate) struct KeptListener {
    pub(crate) inode: Inode,
    _copy: OwnedFd,
}

impl Groups {
    /// Groups of these addresses, of whose listeners nothing is known yet.
    pub(crate) fn watching(addresses: &[SocketAddr], steering: Steering) -> Groups {
        let groups = addresses.iter().map(|&address| Group::new(address, vec![])).collect();
        Groups { groups, steering, active: ActiveRollout::Over, green: None }
    }

    /// From now on these are the addresses.
    pub(crate) fn listen_on(&mut self, addresses: &[SocketAddr]) {
        let mut before = std::mem::take(&mut self.groups);
        let of = |&address: &SocketAddr| {
            let known = before.iter().position(|group| group.address == address);
            known.map_or_else(|| Group::new(address, vec![]), |at| before.swap_remove(at))
        };
        self.groups = addresses.iter().map(of).collect();
    }

    /// Takes what the live generation listens with now, as far as that may be known.
    ///
    /// Where it may not be known whose sockets they are, all that listen and do not leave count as its own.
    pub(crate) fn see(&mut self, holders: Option<&Holders>) {
        for group in self.at_rest() {
            let shown = sock_diag::group(group.address).unwrap_or_default();
            let others = shown.into_keys().filter(|&inode| !group.is_placeholder(inode));
            group.own = others.filter_map(|inode| own_of(inode, holders)).collect();
        }
    }

    /// Green, as it was seen last, is the live generation. The listeners of the one before leave; nothing new comes to them.
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

    /// Takes which processes of the live generation have its listeners by now: some may have died since it was seen.
    pub(crate) fn renew(&mut self, holders: &Holders) {
        for own in self.groups.iter_mut().flat_map(|group| &mut group.own) {
            if let Some(who) = holders.get(&own.inode) {
                *own = GroupListener::lent(own.inode, who.clone());
            }
        }
    }

    /// Nothing is to be moved: where only the live generation listens, the kernel hashes over all its listeners, and those
    /// that come later get their part at once.
    pub(crate) fn rest(&mut self) {
        for group in self.at_rest() {
            let shown = sock_diag::group(group.address).unwrap_or_default();
            let others = shown.into_keys().filter(|&inode| !group.is_placeholder(inode));
            if others.collect::<BTreeSet<_>>() == group.own() {
                group.let_be();
            }
        }
    }

    /// Nobody will listen: whoever connects meanwhile is not to wait for a listener that accepts nothing.
    pub(crate) fn stand_down(&mut self) {
        self.groups.iter_mut().filter(|group| !group.placeholders.is_empty()).for_each(Group::let_be);
    }

    /// Whether any of these processes, which leave, still listens; or anybody who leaves, if that is not known.
    pub(crate) fn are_leaving(&mut self, holders: Option<&Holders>) -> bool {
        let has = |inode| holders.is_none_or(|holders| holders.contains_key(inode));
        !self.have_left() && self.groups.iter().any(|group| group.leaving.iter().any(has))
    }

    /// Those of which nothing is to be moved. Whoever asks may be of a generation that has just passed the leadership on, or is
    /// gone at last when the next rollout has begun.
    fn at_rest(&mut self) -> impl Iterator<Item = &mut Group> {
        let is_over = self.active == ActiveRollout::Over;
        self.groups.iter_mut().filter(move |group| is_over && group.leaving.is_empty() && group.green.is_empty())
    }

    /// Whether listeners have come or gone that [`Groups::follow`] would take in.
    pub(crate) fn have_changed(&self) -> bool {
        let mut steered = self.groups.iter().filter(|group| group.unsteered.is_none());
        steered.any(|group| {
            let shown = sock_diag::group(group.address);
            shown.is_ok_and(|shown| group.slots.compare(&shown.into_keys().collect()).is_err())
        })
    }

    /// Takes in that processes of either generation have died, or come, in the middle of a rollout; `blue` and `green` say
    /// what they have: see [`with_a_look`](super::with_a_look).
    pub(crate) fn follow(&mut self, shown: &Shown, blue: Option<Holders>, green: Option<Holders>) {
        for group in self.groups.iter_mut().filter(|group| group.unsteered.is_none()) {
            let Ok(shown) = shown.of(group.address) else { continue };
            let shown: BTreeSet<Inode> = shown.keys().copied().collect();
            let Err(mismatch) = group.slots.compare(&shown) else { continue };
            let has = |of: &Option<Holders>, inode| of.as_ref().is_some_and(|holders| holders.contains_key(&inode));
            let (of_blue, others): (Vec<Inode>, Vec<Inode>) =
                mismatch.strangers.iter().partition(|&&inode| has(&blue, inode));
            // Those that green has before it was looked at are found when it is.
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

    /// Finds out where all stand that these processes, which leave, listen with. `false` if that is not known by now: it
    /// can be asked again, and nothing has changed for those who connect.
    pub(crate) fn place(&mut self, holders: &Holders) -> bool {
        for group in self.groups.iter_mut().filter(|group| group.unsteered.is_none()) {
            // Since the leadership was passed on, some may have died, and others come.
            group.reconcile();
            let own = group.own();
            let here: Vec<Inode> =
                group.slots.members_of(|inode| holders.contains_key(&inode) && !own.contains(&inode));
            group.leaving.extend(here);
            group.need_order(&group.leaving.clone());
        }
        self.groups.iter().all(|group| group.unsteered.is_some() || group.slots.order().is_some())
    }

    /// All that these processes, which leave, listen with, kept open: a close of theirs closes nothing then. A shutdown(2)
    /// does, in an order of their own: nobody is led astray by any number of those.
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
                    Err(error) => tracing::debug!(%error, "it is closed by its program, at a time of its own"),
                }
            }
        }
        kept
    }

    /// Takes in what was closed meanwhile, and is ready for more. What leaves and is not closed soon must not have all that
    /// comes go to a few of the live generation's listeners: then each gets its part, or one close is expected at a time.
    pub(crate) fn expect_closes(&mut self, soon: bool) {
        for group in self.groups.iter_mut().filter(|group| group.unsteered.is_none() && !group.leaving.is_empty()) {
            group.reconcile();
            group.learn_order();
            let all = group.slots.of(&group.own()).len();
            // Where nobody can stand in once, that is not tried at each look.
            if !soon && group.closes > 1 && !group.add_stand_ins(all) {
                group.closes = 1;
            }
            // As long as it is not known who has moved where, what was right for many closes is the best there is.
            if let Some(program) = group.asked()
                && group.attached.as_ref() != Some(&program)
            {
                let attached = group.attach_program(&program);
                group.settle_for(attached);
            }
        }
    }

    /// Prepares the close of one that leaves: with a program that is right before and after.
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

    /// Whether it is closed by everybody, and what is left steered to the live generation then. A process that ends has no
    /// memory any more, by which it would be known, a moment before it has no descriptors (`exit_mm` comes before
    /// `exit_files` in do_exit, kernel/exit.c, Linux 6.18): until then the slots are as they were.
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

/// One whose process may not be looked at is not lent by anybody, but counts.
fn own_of(inode: Inode, holders: Option<&Holders>) -> Option<GroupListener> {
    match holders {
        Some(holders) => holders.get(&inode).map(|who| GroupListener::lent(inode, who.clone())),
        None => Some(GroupListener::lent(inode, BTreeSet::new())),
    }
}
