//! Finds out from the kernel which listener has which slot, by a slot probe to each slot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use super::group::Group;
use crate::model::identity::Inode;
use crate::model::slots::{Mismatch, Slots};
use crate::model::steering::Program;
use crate::runtime::local_address::reached;
use crate::sys::slot_probe::SlotProbe;
use crate::sys::sock_diag;

/// How many slot probes are sent to one slot at the most. A busy listener may drop another packet at the same moment;
/// then the slot is probed again.
const PROBES: usize = 16;
/// How long the discovery may take. It begins anew if such drops go on, or if listeners join or leave during it. No
/// connection waits for the discovery, but the rollout does. It takes some milliseconds where a processor is free.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many slot probes confirm one slot at least, because another packet may be dropped just before the probe arrives.
const ROUNDS: usize = 3;
/// How long a slot probe may be on its way. Over loopback it arrives within the call that sends it, or when ksoftirqd
/// gets a processor: some milliseconds on a busy machine. A probe that has not arrived by then was dropped on the way.
const ARRIVES: Duration = Duration::from_millis(50);

impl Group {
    /// Brings the slot table up to date with the listeners that the kernel shows.
    pub(super) fn reconcile(&mut self) {
        let Ok(shown) = sock_diag::group(self.address) else { return };
        if let Err(mismatch) = self.slots.compare(&shown.into_keys().collect()) {
            self.take_in(&mismatch, false);
        }
    }

    /// Takes in which listeners were closed, or have joined, since the last look. New listeners have the last slots if
    /// none was closed in the meantime. The order of several new listeners among each other is not known, and does not
    /// matter as long as they are `alike` (all of one generation).
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

    /// Finds out the order where it is marked as unknown.
    pub(super) fn learn_order(&mut self) {
        if self.slots.order().is_none()
            && let Some(found) = self.find_order()
        {
            self.take_order(found);
        }
    }

    /// Finds out the order if any listener in `of` has no certain slot: these listeners are to be closed one by one.
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

    /// Finds the order of all listeners of the group; `None` if it cannot be found. During the discovery, all new
    /// connections but the slot probes are steered as before. The program that does this is left attached.
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
        tracing::debug!(address = %self.address, "the listeners drop too many other packets to find out their order");
        None
    }

    fn probe_each_slot(&mut self, until: Instant) -> io::Result<Option<Slots>> {
        let count = sock_diag::drops(self.address)?.len();
        let all: Vec<u16> = (0..u16::try_from(count).map_err(io::Error::other)?).collect();
        let too_many = || io::Error::other("there are too many listeners");
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
        // The order holds only if no listener has joined or left during the discovery.
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
            let program = aside.ok_or_else(|| io::Error::other("there are too many listeners"))?;
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

    /// The listeners whose drop counter has grown when the slot probe has arrived: at once, unless the machine is busy.
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
