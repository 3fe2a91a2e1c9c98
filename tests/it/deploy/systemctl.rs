//! A `systemctl` for one unit: answers from the service's notifications as systemd would, and reloads the service by a
//! command.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::support::process::Instance;

/// The script asks this process for properties. The environment of deploy.sh is not that of the unit's ExecReload.
const SYSTEMCTL: &str = r#"#!/bin/bash
set -u
ask() {
    exec 3<>"/dev/tcp/127.0.0.1/@PORT@" && echo "$1" >&3 && cat <&3
}
case "$*" in
"show --property="*" --value -- web.service") property=${2#--property=} && ask "$property" ;;
"reload -- web.service") MAINPID=$(ask MainPID) && export MAINPID && exec env RUNTIME_DIRECTORY='@RUN@' @EXEC_RELOAD@ ;;
*) echo "unexpected: $*" >&2 && exit 1 ;;
esac
"#;

/// The program, and the thread that answers its questions.
pub(super) struct Systemctl {
    folder: PathBuf,
    address: SocketAddr,
    answering: Option<JoinHandle<()>>,
}

impl Systemctl {
    /// `exec_reload` is a command that may use `$MAINPID`.
    pub(super) fn of(server: &Arc<Instance>, exec_reload: &str) -> Systemctl {
        let folder = server.directory().join("bin");
        fs::create_dir(&folder).expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let text = SYSTEMCTL
            .replace("@PORT@", &address.port().to_string())
            .replace("@RUN@", server.directory().join("run").to_str().expect("text"))
            .replace("@EXEC_RELOAD@", exec_reload);
        let program = folder.join("systemctl");
        fs::write(&program, text).expect("write");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("make executable");
        let server = Arc::clone(server);
        let answering = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if answer(&stream, &server).is_none() {
                    return;
                }
            }
        });
        Systemctl { folder, address, answering: Some(answering) }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Systemctl {
    fn drop(&mut self) {
        // A connection without a question ends the thread.
        drop(TcpStream::connect(self.address));
        if let Some(answering) = self.answering.take() {
            let _ = answering.join();
        }
    }
}

/// `None` if the connection brings no question.
fn answer(mut stream: &TcpStream, server: &Instance) -> Option<()> {
    let mut property = String::new();
    let length = BufReader::new(stream).read_line(&mut property).ok()?;
    if length == 0 {
        return None;
    }
    let value = property_of(server, property.trim_end());
    // The process that asked may have ended.
    let _ = writeln!(stream, "{value}");
    Some(())
}

/// The value as of systemd 252 with NotifyAccess=main.
fn property_of(server: &Instance, property: &str) -> String {
    let (mut main, mut state, mut status) = (server.first_pid(), "activating", String::new());
    for notification in server.notifications() {
        if notification.pid != main {
            continue;
        }
        if notification.value("RELOADING") == Some("1") {
            state = "reloading";
        }
        if notification.value("READY") == Some("1") {
            state = "active";
        }
        if notification.value("STOPPING") == Some("1") {
            state = "deactivating";
        }
        if let Some(text) = notification.value("STATUS") {
            text.clone_into(&mut status);
        }
        main = notification.value("MAINPID").and_then(|pid| pid.parse().ok()).unwrap_or(main);
    }
    if !server.pids().contains(&main) {
        (main, state) = (0, "failed");
    }
    match property {
        "MainPID" => main.to_string(),
        "ActiveState" => state.to_owned(),
        "StatusText" => status,
        other => panic!("deploy.sh asks for {other}"),
    }
}
