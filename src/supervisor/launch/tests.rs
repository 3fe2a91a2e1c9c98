//! The launch of real programs, with arguments, an environment and a directory of the test's own.
//!
//! A supervisor reaps every child of its process, so each test runs in a process that runs nothing else.

use std::ffi::OsString;

use rustix::process::Signal;

use super::*;
use crate::model::rollout::Plan;
use crate::runtime::notifier::Notifier;
use crate::runtime::service_manager::ServiceManager;
use crate::supervisor::instance::{Parts as InstanceParts, nobody};
use crate::supervisor::settings::{ReadyWhen, Settings};
use crate::supervisor::signals;
use crate::supervisor::unix_listeners::UnixListeners;
use crate::sys::launch::Launch;
use crate::sys::reaper::Reaper;
use crate::sys::reexec::{role, run_again};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

/// Runs `work` in a process that runs only this test.
fn alone<T: Fn()>(test: T, work: impl Future<Output = ()>) {
    if role().is_none() {
        return run_again(test, "alone");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}

/// The supervisor of this program, which has `ready` to become ready.
fn instance(words: &[&str], when: ReadyWhen, ready: Duration) -> Arc<Instance> {
    let reaper = Reaper::default();
    signals::reap(reaper.clone()).expect("handled");
    let (live_endpoint, _) = watch::channel(nobody());
    Arc::new(Instance::new(InstanceParts {
        name: "test".into(),
        settings: Settings {
            plan: Plan { ready, linger: LONG, drain: LONG, probe: None, canary: vec![], soak: Duration::ZERO },
            ready: when,
            target: None,
            stop_signal: Signal::TERM,
            preflight: None,
            addresses: None,
            unix: vec![],
        },
        program: Launch::of(["unused"]).running(words.iter().map(OsString::from).collect()),
        reaper,
        groups: Groups::new(Table::watching(&[], Steering::Off)),
        unix: UnixListeners::default(),
        addresses: vec![],
        service_manager: ServiceManager::new(Notifier::new(None), None),
        live_endpoint,
    }))
}

async fn launched(instance: &Arc<Instance>) -> Result<Launched, Error> {
    tokio::time::timeout(LONG, launch(instance)).await.expect("in time")
}

#[test]
fn a_program_that_is_ready_at_once_is_live() {
    alone(a_program_that_is_ready_at_once_is_live, async {
        let instance = instance(&["/bin/sleep", "1000"], ReadyWhen::Listening, LONG);
        assert!(matches!(launched(&instance).await, Ok(Launched::Live)));
        let live = instance.live().expect("it is live");
        assert_eq!(live.child.generation, Generation::FIRST);
        live.child.killed().await;
    });
}

#[test]
fn a_program_that_ends_passes_its_code_on() {
    alone(a_program_that_ends_passes_its_code_on, async {
        let instance = instance(&["/bin/sh", "-c", "exit 3"], ReadyWhen::Notify, LONG);
        assert!(matches!(launched(&instance).await, Ok(Launched::Over(3))));
        assert!(instance.live().is_none());
    });
}

#[test]
fn a_program_that_is_never_ready_is_killed() {
    alone(a_program_that_is_never_ready_is_killed, async {
        let instance = instance(&["/bin/sleep", "1000"], ReadyWhen::Notify, SHORT);
        let error = launched(&instance).await.err().expect("it is not ready");
        assert_eq!(error.kind(), ErrorKind::NotReady);
        assert_eq!(error.to_string(), "generation 1 did not become ready in 300ms; nothing runs");
    });
}

#[test]
fn a_program_that_is_not_there_is_an_error_with_its_kind() {
    alone(a_program_that_is_not_there_is_an_error_with_its_kind, async {
        let instance = instance(&["/no/such/program"], ReadyWhen::Notify, LONG);
        let error = launched(&instance).await.err().expect("it cannot be started");
        assert_eq!(error.kind(), ErrorKind::Program);
        assert!(std::error::Error::source(&error).expect("of the system").to_string().contains("/no/such/program"));
    });
}

#[test]
fn a_stop_is_passed_on_and_the_program_chooses_its_code() {
    alone(a_stop_is_passed_on_and_the_program_chooses_its_code, async {
        let folder = tempfile::tempdir().expect("a folder");
        let [begun, heard] = ["begun", "heard"].map(|name| folder.path().join(name));
        let text = format!(
            "trap 'exit 5' TERM; trap ': > {}' USR1; : > {}; while :; do sleep 0.05; done",
            heard.display(),
            begun.display()
        );
        let instance = instance(&["/bin/sh", "-c", &text], ReadyWhen::Notify, LONG);
        let asked = instance.clone();
        let launching = tokio::spawn(async move { launched(&asked).await });
        // There is no event for a file that a shell makes, nor for the end of a process that is not waited for.
        let begins = async {
            while !begun.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // A stop before the launch has taken the new process would kill the process. A signal is not passed on before.
            while !heard.exists() {
                instance.signal(Signal::USR1);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, begins).await.expect("it begins");
        instance.stop(None).await;
        match launching.await.expect("no panic") {
            Ok(Launched::Over(code)) => assert_eq!(code, 5),
            Ok(Launched::Live) => panic!("it has never said that it is ready"),
            Err(error) => panic!("{error}"),
        }
    });
}

/// exec may wait for a disk for longer than its rollout lasts.
#[test]
fn a_process_that_comes_after_its_rollout_is_killed_and_not_taken() {
    alone(a_process_that_comes_after_its_rollout_is_killed_and_not_taken, async {
        let instance = instance(&["/bin/sleep", "1000"], ReadyWhen::Notify, LONG);
        let ((inputs, _received), (spawned, mut arriving)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
        let mut next = NextGeneration::new(instance.clone(), inputs, spawned);
        let two = Generation::FIRST.next();
        next.spawn(two);
        let late = arriving.recv().await.expect("a process").result.expect("spawned");
        let serving = Rollout::serving(Generation::FIRST, Pid::new(1), instance.settings.plan.clone());
        let pid = next.take(*late, &serving);
        assert!(next.of(two).is_none());
        let gone = async {
            while std::path::Path::new(&format!("/proc/{pid}")).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, gone).await.expect("it is killed");
    });
}
