//! One folder for each kind of promise, one file for each promise, on real processes and real sockets.

mod control;
mod deploy;
mod docker;
mod doctor;
mod host;
mod outsiders;
mod rollout;
mod run;
mod source;
mod support;
mod systemd;
mod traffic;
mod verbs;
