//! Runs `cutover doctor` once, to its end.
#![allow(unreachable_pub, reason = "`pub` says here what a test may use")]

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use cutover::doctor::Finding;

use crate::support::seccomp::{self, Refused};

/// Upper limit for a run on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

pub struct Doctor {
    command: Command,
    refused: Vec<Refused>,
}

/// The findings and the exit status.
#[derive(Debug)]
pub struct Report {
    pub code: Option<i32>,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn of(&self, subject: &str) -> Vec<&Finding> {
        self.findings.iter().filter(|finding| finding.subject == subject).collect()
    }
}

impl Doctor {
    pub fn new() -> Doctor {
        Doctor::within(Command::new(super::CUTOVER))
    }

    /// `command` runs the program with the arguments that are appended here.
    pub fn within(mut command: Command) -> Doctor {
        // The doctor must not find instances of the machine, or of another test.
        command.env_remove("RUNTIME_DIRECTORY").env_remove("XDG_RUNTIME_DIR").arg("doctor");
        Doctor { command, refused: Vec::new() }
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Doctor {
        self.command.env(key, value);
        self
    }

    pub fn listen(mut self, address: SocketAddr) -> Doctor {
        self.command.args(["--listen", &address.to_string()]);
        self
    }

    pub fn unit(mut self, name: &str) -> Doctor {
        self.command.args(["--unit", name]);
        self
    }

    pub fn refused(mut self, refused: Refused) -> Doctor {
        self.refused.push(refused);
        self
    }

    #[track_caller]
    pub fn run(mut self) -> Report {
        self.command.arg("--json");
        let output = self.output();
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let findings = text.lines().map(|line| serde_json::from_str(line).expect("a finding in JSON")).collect();
        Report { code: output.status.code(), findings }
    }

    #[track_caller]
    pub fn run_text(self) -> String {
        String::from_utf8(self.output().stdout).expect("UTF-8")
    }

    #[track_caller]
    fn output(mut self) -> Output {
        if !self.refused.is_empty() {
            seccomp::refuse(&mut self.command, &self.refused);
        }
        self.command.stdin(Stdio::null());
        let (sender, receiver) = mpsc::channel();
        let mut command = self.command;
        std::thread::spawn(move || sender.send(command.output()));
        let output = receiver.recv_timeout(WITHIN).expect("it ends").expect("it starts");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }
}
