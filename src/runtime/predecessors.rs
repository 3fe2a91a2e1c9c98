//! The earlier generations that still finish their connections; at most [`MAX`] of them.

use rustix::process::Signal;

use crate::model::handover::Drainer;
use crate::model::identity::{Generation, Pid};
use crate::sys::process::HeldProcess;
use crate::sys::process_tree;

/// How many generations may drain at once. When one more begins to drain, the oldest is told to end.
pub(crate) const MAX: usize = 3;

/// The draining generations that this one knows of, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Predecessors(Vec<(Drainer, HeldProcess)>);

impl Predecessors {
    /// Takes the list from the previous generation. All processes of the list were alive when it was sent, so they are
    /// older than this process. If one has ended since, its pid may name a new process, which is younger than this
    /// process: that is no predecessor.
    pub(crate) fn learn(&mut self, told: &[Drainer]) {
        let own = process_tree::start_of(Pid::new(std::process::id()));
        let is_elder = |pid| process_tree::start_of(pid).zip(own).is_some_and(|(began, own)| began <= own);
        // The start time that was read belongs to the held process only if that process is still alive, and so still
        // has its pid.
        let hold = |pid| HeldProcess::hold(pid).filter(|held| is_elder(pid) && held.is_alive());
        self.0 = told.iter().filter_map(|drainer| hold(drainer.pid).map(|held| (*drainer, held))).collect();
    }

    /// The draining generations that are still alive.
    pub(crate) fn draining(&mut self) -> Vec<Drainer> {
        self.0.retain(|(_, held)| held.is_alive());
        self.0.iter().map(|(drainer, _)| *drainer).collect()
    }

    /// Makes room for this generation, which begins to drain. Returns all draining generations, including this one.
    pub(crate) fn join(&mut self, generation: Generation, pid: Pid) -> Vec<Drainer> {
        self.make_room();
        let mut all = self.draining();
        all.push(Drainer { generation, pid });
        all
    }

    /// Adds a draining generation other than this one.
    pub(crate) fn add(&mut self, generation: Generation, pid: Pid, held: Option<HeldProcess>) {
        self.make_room();
        self.0.extend(held.map(|held| (Drainer { generation, pid }, held)));
    }

    fn make_room(&mut self) {
        while self.draining().len() >= MAX {
            let (oldest, held) = self.0.remove(0);
            tracing::warn!(generation = %oldest.generation, pid = %oldest.pid, "{MAX} generations drain already, ending the oldest");
            held.signal(Signal::USR2);
        }
    }

    /// Waits until all draining generations are gone. Cancel safe.
    pub(crate) fn gone(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.draining();
        let held: Vec<HeldProcess> = self.0.iter().filter_map(|(_, held)| held.try_clone()).collect();
        async move {
            for process in held {
                process.gone().await;
            }
        }
    }

    /// Tells all draining generations to end now, by SIGUSR2.
    pub(crate) fn force_close(&mut self) {
        for drainer in self.draining() {
            tracing::info!(generation = %drainer.generation, pid = %drainer.pid, "ending the drain");
        }
        for (_, held) in &self.0 {
            held.signal(Signal::USR2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A child that is younger than this process by the kernel's count, in hundredths of a second.
    fn younger() -> Child {
        let own = process_tree::start_of(Pid::new(std::process::id()));
        loop {
            let mut child = Command::new("sleep").arg("1000").spawn().expect("spawn sleep");
            if process_tree::start_of(Pid::new(child.id())) > own {
                return child;
            }
            child.kill().and_then(|()| child.wait()).expect("our own child");
        }
    }

    #[test]
    fn one_that_is_younger_than_this_process_is_no_predecessor() {
        let mut child = younger();
        let parent = std::os::unix::process::parent_id();
        let drainer = |(number, pid)| Drainer { generation: Generation::new(number), pid: Pid::new(pid) };
        let told = [(1, parent), (2, child.id()), (3, 0)].map(drainer);
        let mut predecessors = Predecessors::default();
        predecessors.learn(&told);
        assert_eq!(predecessors.draining(), told[..1]);
        predecessors.add(told[1].generation, told[1].pid, HeldProcess::hold(told[1].pid));
        assert_eq!(predecessors.draining(), told[..2]);
        child.kill().and_then(|()| child.wait()).expect("our own child");
        assert_eq!(predecessors.draining(), told[..1]);
    }
}
