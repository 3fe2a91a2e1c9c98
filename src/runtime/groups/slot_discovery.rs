//! Who stands at which slot, found out from the kernel itself: each slot is knocked at.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use super::group::Group;
use crate::model::identity::Inode;
use crate::model::slots::{Mismatch, Slots};
use crate::model::steering::Program;
use crate::runtime::probe::reached;
use crate::sys::slot_probe::SlotProbe;
use crate::sys::sock_diag;

/// On a busy listener another packet may be dropped at the same moment: then it is knocked again.
const PROBES: usize = 16;
/// Where that goes on, or somebody comes or goes meanwhile, all begins anew, but not for longer: no connection waits for
/// it, but the rollout does. It takes some milliseconds where there is a processor free.
const PATIENCE: Duration = Duration::from_secs(1);
/// So often at least, for a packet of somebody else may be dropped just before ours has arrived.
const ROUNDS: usize = 3;
/// A knock over loopback arrives within the call that sends it, or when ksoftirqd gets a processor: some milliseconds on a
/// busy machine. One that has not come by then was dropped on the way.
const ARRIVES: Duration = Duration::from_millis(50);

impl Group {
    /// Takes in what the kernel shows by now.
    pub(super) fn reconcile(&mut self) {
        let Ok(shown) = sock_diag::group(self.address) else { return };
        if let Err(mismatch) = self.slots.compare(&shown.into_keys().collect()) {
            self.take_in(&mismatch, false);
        }
    }

    /// Takes in that some were closed, or have begun to listen, since it was looked. Who has come stands behind all others
    /// if none was closed meanwhile; which of several that have come stands before which nobody has told, and it does not
    /// matter as long as they are `alike`.
    pub(super) fn take_in(&mut self, mismatch: &Mismatch, alike: bool) {
        let Mismatch { strangers: come, missing: gone } = mismatch;
        self.lose(&gone.iter().copied().collect());
        come.iter().for_each(|&inode| self.slots.listen(inode));
        match come.len() {
            0 => {}
            1 if gone.is_empty() => {}
            _ if gone.is_empty() && alike => self.untold.extend(come),
            _ => self.slots = self.slots.clone().forgotten(),
        }
        self.learn_order();
    }

    /// Finds the order out where it is known to be unknown.
    pub(super) fn learn_order(&mut self) {
        if self.slots.order().is_none()
            && let Some(found) = self.find_order()
        {
            self.take_order(found);
        }
    }

    /// Finds the order out of those that are to be closed one by one.
    pub(super) fn need_order(&mut self, of: &BTreeSet<Inode>) {
        if !self.untold.is_disjoint(of) {
            self.untold.clear();
            self.slots = self.slots.clone().forgotten();
        }
        self.learn_order();
    }

    pub(super) fn take_order(&mut self, found: Slots) {
        self.slots = found;
        self.untold.clear();
    }

    /// Finds the order of all listeners of the group, if the kernel lets it be found. All that is not ours goes meanwhile
    /// where it goes now; the program that does this is left attached.
    pub(super) fn find_order(&mut self) -> Option<Slots> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.probe_each_slot(until) {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(address = %self.address, %error, "the order of the listeners cannot be found out");
                    return None;
                }
            }
        }
        tracing::debug!(address = %self.address, "too much is dropped by the listeners to find out their order");
        None
    }

    fn probe_each_slot(&mut self, until: Instant) -> io::Result<Option<Slots>> {
        let count = sock_diag::drops(self.address)?.len();
        let all: Vec<u16> = (0..u16::try_from(count).map_err(io::Error::other)?).collect();
        let too_many = || io::Error::other("there are too many");
        let now = self.asked().or_else(|| self.attached.clone());
        let rest = now.or_else(|| Program::one_of(&all)).ok_or_else(too_many)?;
        let mut table: Vec<Inode> = Vec::new();
        for slot in all {
            match self.who_is_at(slot, &rest, until)? {
                Some(inode) if !table.contains(&inode) => table.push(inode),
                _ => return Ok(None),
            }
        }
        self.attach_program(&rest).map_err(io::Error::other)?;
        // Nobody has come or gone meanwhile.
        let still = sock_diag::drops(self.address)?.into_keys().collect();
        let slots = Slots::in_order(table);
        Ok(slots.compare(&still).is_ok().then_some(slots))
    }

    fn who_is_at(&mut self, slot: u16, rest: &Program, until: Instant) -> io::Result<Option<Inode>> {
        let mut candidates: Option<Vec<Inode>> = None;
        for round in 1..=PROBES {
            if Instant::now() > until {
                break;
            }
            let slot_probe = SlotProbe::new(reached(self.address))?;
            let aside = Program::aside(slot_probe.source, slot, rest);
            let program = aside.ok_or_else(|| io::Error::other("there are too many"))?;
            self.attach_program(&program).map_err(io::Error::other)?;
            let more = self.dropped_by(&slot_probe)?;
            let left: Vec<Inode> = match candidates.take() {
                Some(known) => known.into_iter().filter(|inode| more.contains(inode)).collect(),
                None => more,
            };
            match left[..] {
                [] => return Ok(None),
                [one] if round >= ROUNDS => return Ok(Some(one)),
                _ => candidates = Some(left),
            }
        }
        Ok(None)
    }

    /// The listeners that have dropped something, when the knock has arrived: at once, unless the machine is busy.
    fn dropped_by(&self, slot_probe: &SlotProbe) -> io::Result<Vec<Inode>> {
        let before = sock_diag::drops(self.address)?;
        let began = Instant::now();
        slot_probe.knock()?;
        loop {
            let more = grown(&before, &sock_diag::drops(self.address)?);
            if !more.is_empty() || began.elapsed() > ARRIVES {
                return Ok(more);
            }
            std::thread::yield_now();
        }
    }
}

fn grown(before: &BTreeMap<Inode, u32>, after: &BTreeMap<Inode, u32>) -> Vec<Inode> {
    after.iter().filter(|(inode, drops)| before.get(inode) != Some(drops)).map(|(inode, _)| *inode).collect()
}
