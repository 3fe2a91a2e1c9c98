//! The way forward: the next generation is started, looked at, and tried.

use std::sync::Arc;
use std::time::Duration;

use super::{News, SupervisedHost};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::Event;
use crate::runtime::course::{self, Probe};
use crate::runtime::driver::Host as _;
use crate::runtime::driver::Input;
use crate::runtime::retire::lock;
use crate::supervisor::child::{Child, Newborn};
use crate::supervisor::{preflight, ready};

/// There is no event for a listener that was closed, or has come.
const LOOK: Duration = Duration::from_millis(20);

impl SupervisedHost {
    pub(super) fn preflight(&mut self, green: Generation) {
        self.instance.voice().reloading();
        tracing::info!(generation = %self.generation(), green = %green, "reloading");
        let (instance, child) = (self.instance.clone(), self.child.clone());
        self.checking = Some(self.in_background(async move {
            let result = preflight::pass(&instance, child).await;
            Event::PreflightDone { green, result }
        }));
    }

    pub(super) fn gate(&self, green: Generation) {
        let (instance, child) = (self.instance.clone(), self.child.clone());
        self.in_background(async move {
            let (groups, needs) = (instance.groups.clone(), instance.settings.plan.needs_steering());
            let result = course::gate(groups, needs, move |groups| groups.see(child.holders().as_ref())).await;
            Event::Gated { green, result }
        });
    }

    pub(super) fn spawn(&self, green: Generation) {
        let (instance, news) = (self.instance.clone(), self.news.clone());
        let handle = tokio::runtime::Handle::current();
        tokio::spawn(async move {
            let spawned = tokio::task::spawn_blocking(move || {
                let _context = handle.enter();
                Newborn::spawn(&instance, green)
            });
            let spawned = spawned.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            let result = spawned.map(Box::new).map_err(|error| format!("cannot be spawned: {error}"));
            // Without a driver nobody would ever hear of the process again.
            if let Err(unsent) = news.send(News::Spawned { green, result }).await
                && let News::Spawned { result: Ok(newborn), .. } = unsent.0
            {
                newborn.kill();
            }
        });
    }

    /// Takes a new process on, and begins to listen to it, and to look whether it is ready.
    pub(super) fn adopt(&mut self, newborn: Newborn) -> Pid {
        let green = newborn.listen_to(&Arc::downgrade(&self.instance), self.inputs.clone());
        let (generation, pid) = (green.generation, green.pid);
        tracing::info!(%generation, %pid, "spawned");
        self.watch_end(&green);
        tokio::spawn(ready::watch(self.instance.clone(), Arc::downgrade(&green), self.inputs.clone()));
        match &self.green {
            // One that was given up long ago, and comes when another attempt has its process already.
            Some(_) => drop(tokio::task::spawn_blocking(move || green.kill())),
            None => {
                self.green = Some(green);
                self.follow();
            }
        }
        pid
    }

    fn watch_end(&self, green: &Arc<Child>) {
        let (inputs, weak) = (self.inputs.clone(), Arc::downgrade(green));
        let (generation, end) = (green.generation, green.end());
        let has_addresses = !self.instance.addresses().is_empty();
        tokio::spawn(async move {
            let Some(ended) = end.await else { return };
            let how = match weak.upgrade() {
                Some(child) => {
                    let left = ready::left(&child).await;
                    ready::told(ended, &child, &left, has_addresses)
                }
                None => ended.to_string(),
            };
            let _ = inputs.send(Input::Rollout(Event::GreenExited { green: generation, how })).await;
        });
    }

    pub(super) fn verify(&self, green: Generation) {
        let (groups, child) = (self.instance.groups.clone(), self.green(green));
        self.in_background(async move {
            let result = match child {
                Some(child) => {
                    let sockets = move || child.holders().map(|holders| holders.into_keys().collect());
                    let verify = move || lock(&groups).verify(sockets, &[]);
                    let looked = tokio::task::spawn_blocking(verify).await;
                    looked.unwrap_or_else(|_| Err("cannot be looked at".into()))
                }
                None => Err("is gone".into()),
            };
            Event::Verified { green, result }
        });
    }

    pub(super) fn probe(&mut self, green: Generation, after: Duration) {
        let (Some(target), Some(timeout)) = (self.instance.settings.target.clone(), self.instance.settings.plan.probe)
        else {
            return self.send(Event::Probed { green, result: Ok(()) });
        };
        let (probe, groups) =
            (Probe { target, timeout, addresses: self.instance.addresses() }, self.instance.groups.clone());
        self.probing = Some(self.in_background(async move {
            // The model's pause between two probes, so that they are no load.
            tokio::time::sleep(after).await;
            Event::Probed { green, result: probe.ask(&groups).await }
        }));
    }

    /// Looks again and again, for as long as a program is attached that names slots.
    fn follow(&mut self) {
        let (groups, blue, green) = (self.instance.groups.clone(), self.child.clone(), self.green.clone());
        let task = tokio::spawn(async move {
            loop {
                let (groups, blue, green) = (groups.clone(), blue.clone(), green.clone());
                let look = move || {
                    lock(&groups).follow(|| (blue.holders(), green.as_ref().and_then(|green| green.holders())));
                };
                if tokio::task::spawn_blocking(look).await.is_err() {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        self.end_following();
        self.following = Some(task.abort_handle());
    }

    /// What has come or gone since the last look must not be in the way.
    pub(super) fn follow_now(&self) {
        let green = || self.green.as_ref().and_then(|green| green.holders());
        lock(&self.instance.groups).follow(|| (self.child.holders(), green()));
    }

    pub(super) fn end_following(&mut self) {
        if let Some(following) = self.following.take() {
            following.abort();
        }
    }

    /// Nobody waits for its answer any more.
    pub(super) fn end_checking(&mut self) {
        if let Some(checking) = self.checking.take() {
            checking.abort();
        }
    }

    pub(super) fn end_probing(&mut self) {
        if let Some(probing) = self.probing.take() {
            probing.abort();
        }
    }

    pub(super) fn kill(&self, green: Generation) {
        if let Some(child) = self.green(green) {
            tokio::task::spawn_blocking(move || child.kill());
        }
    }
}
