//! `cutover run` as process 1, as users of a container see it: from outside, and through `docker` itself.

mod exit;
mod mount;
mod orphans;
mod reload;
mod stop;
mod terminal;
mod verbs;

use std::io::{Read, Write};
use std::net::TcpStream;

use super::SOON;
use crate::support::docker::{Container, Engine};

/// Arguments of the supervisor, in the order of its command line.
const RUN: &[&str] = &["run", "--listen", "0.0.0.0:8080"];
const PUBLISH: &[&str] = &["--publish", "8080"];

/// The library's own server under `cutover run`, in an image with nothing else in it. `None`, reported as skipped,
/// where the image cannot be had.
#[track_caller]
fn run_serve(engine: &'static Engine, options: &[&str], serve: &[&str]) -> Option<Container> {
    let words = [RUN, &["--", "/cutover", "serve", "--listen", "0.0.0.0:8080"], serve].concat();
    Some(live(engine.run(&[PUBLISH, options].concat(), engine.cutover()?, &words)))
}

/// A server without any support for cutover.
#[track_caller]
fn run_perl(engine: &'static Engine, options: &[&str]) -> Option<Container> {
    let words = [RUN, &["--", "/server.pl", "8080"]].concat();
    Some(live(engine.run(&[PUBLISH, options].concat(), engine.perl()?, &words)))
}

/// Waits until the supervisor logs that the generation serves; the library's own server has another log line.
#[track_caller]
fn live(container: Container) -> Container {
    container.wait_log(" phase=serving", SOON);
    container
}

/// Sends `docker kill --signal HUP`, and waits until this generation is live.
#[track_caller]
fn reload_to(container: &Container, generation: u64) {
    let mark = container.mark();
    container.kill("HUP");
    container.wait_log_after(mark, &format!("generation {generation} is live"), SOON);
}

/// The same for a reload that fails; returns the log line with the reason.
#[track_caller]
fn reload_fails(container: &Container) -> String {
    let mark = container.mark();
    container.kill("HUP");
    container.wait_log_after(mark, "reload failed", SOON)
}

/// The length of a file, in bytes: much more than sockets buffer, so that the server cannot finish before the client
/// reads.
const LONG: usize = 32 << 20;

/// An answer in progress.
struct Download(TcpStream);

impl Download {
    /// Returns when the answer has begun.
    #[track_caller]
    fn begin(engine: &Engine, container: &Container) -> Download {
        let server = container.published(8080);
        let mut stream = engine.in_network(|| TcpStream::connect(server)).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("set");
        stream.write_all(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut begins = [0; 12];
        stream.read_exact(&mut begins).expect("an answer");
        assert_eq!(&begins, b"HTTP/1.1 200");
        Download(stream)
    }

    /// Reads the rest of the answer, which must be complete.
    #[track_caller]
    fn finish(mut self) {
        let mut answer = Vec::new();
        self.0.read_to_end(&mut answer).expect("the rest of the answer");
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        assert_eq!(answer.len() - head, LONG, "{}", String::from_utf8_lossy(&answer[..head]));
    }
}

/// A folder to mount, readable by all users of a container.
pub(super) fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let all = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().permissions(all).tempdir().expect("make a folder")
}

/// A folder with the file `long`.
fn folder_with_long() -> tempfile::TempDir {
    let folder = folder();
    let long = std::fs::File::create(folder.path().join("long")).expect("make a file");
    long.set_len(LONG as u64).expect("make it long");
    folder
}

/// The value of `--mount`.
fn mount(folder: &tempfile::TempDir) -> String {
    format!("type=bind,source={},target=/srv,readonly", folder.path().display())
}
