//! The generations before this one that still finish their connections; at most [`MAX`] of them.

use rustix::process::Signal;

use crate::model::identity::{Generation, Pid};
use crate::model::message::Drainer;
use crate::sys::process::Stranger;

/// So many generations may drain at once; when one more begins, the oldest is told to end.
pub(crate) const MAX: usize = 3;

/// The draining generations that this one knows of, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Predecessors(Vec<(Drainer, Stranger)>);

impl Predecessors {
    /// Takes the list from the generation before, which held those processes alive while it told.
    pub(crate) fn learn(&mut self, told: &[Drainer]) {
        self.0 = told.iter().filter_map(|d| Stranger::hold(d.pid).map(|held| (*d, held))).collect();
    }

    /// Those that are still there.
    pub(crate) fn draining(&mut self) -> Vec<Drainer> {
        self.0.retain(|(_, held)| held.is_alive());
        self.0.iter().map(|(drainer, _)| *drainer).collect()
    }

    /// Makes room for this generation, which begins to drain, and returns all of them, it included.
    pub(crate) fn join(&mut self, generation: Generation, pid: Pid) -> Vec<Drainer> {
        self.make_room();
        let mut all = self.draining();
        all.push(Drainer { generation, pid });
        all
    }

    /// One more drains, that is not this generation.
    pub(crate) fn add(&mut self, generation: Generation, pid: Pid) {
        self.make_room();
        self.0.extend(Stranger::hold(pid).map(|held| (Drainer { generation, pid }, held)));
    }

    fn make_room(&mut self) {
        while self.draining().len() >= MAX {
            let (oldest, held) = self.0.remove(0);
            tracing::warn!(generation = %oldest.generation, pid = %oldest.pid, "{MAX} generations drain already, ending the oldest");
            held.signal(Signal::USR2);
        }
    }

    /// Waits until all of them are gone. Cancel safe.
    pub(crate) fn gone(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.draining();
        let held: Vec<Stranger> = self.0.iter().filter_map(|(_, held)| held.again()).collect();
        async move {
            for process in held {
                process.gone().await;
            }
        }
    }

    /// Tells all of them to end now.
    pub(crate) fn hammer(&mut self) {
        for drainer in self.draining() {
            tracing::info!(generation = %drainer.generation, pid = %drainer.pid, "ending the drain");
        }
        for (_, held) in &self.0 {
            held.signal(Signal::USR2);
        }
    }
}
