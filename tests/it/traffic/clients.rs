//! HTTP clients of other projects, plain and over TLS, at rest and over reloads: curl, h2load, nghttp, `ab -k`, which
//! speaks HTTP/1.0, and `nc -N`, which shuts its writing side down.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::foreign::{installed, output, repeat_while_reloading, succeed, text, while_reloading};
use crate::support::process::{Instance, Start};
use crate::support::tls::Identity;

const NAME: &str = "app.test";
const PAGE: &str = "the same page from each generation\n";
/// The number of requests of one run of a client that ends soon.
const REQUESTS: usize = 20;
/// The number of reloads while a client runs.
const RELOADS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Plain,
    Tls,
}

/// A server of one file, the same in each generation.
struct Site {
    server: Instance,
    transport: Transport,
    identity: Identity,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new(transport: Transport) -> Site {
        Site::with(transport, &["--idle-grace", "2s"])
    }

    fn with(transport: Transport, options: &[&str]) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let pages = folder.path().join("pages");
        std::fs::create_dir(&pages).expect("made");
        std::fs::write(pages.join("page"), PAGE).expect("written");
        let identity = Identity::make(folder.path(), "app", &[NAME]);
        let mut start = Start::serve().args(options);
        if transport == Transport::Tls {
            start = start.arg("--tls-cert").arg(&identity.certificate).arg("--tls-key").arg(&identity.key);
        }
        Site { server: start.arg(pages).ready(), transport, identity, _folder: folder }
    }

    /// The page, at this host.
    fn url_at(&self, host: &str) -> String {
        let (scheme, port) =
            (if self.transport == Transport::Tls { "https" } else { "http" }, self.server.addr().port());
        format!("{scheme}://{host}:{port}/page")
    }

    /// The page, for clients that do not check the certificate.
    fn url(&self) -> String {
        self.url_at("127.0.0.1")
    }
}

/// How curl speaks HTTP.
#[derive(Clone, Copy, Debug)]
enum Version {
    One,
    Two,
    /// Without TLS, and without asking whether the server speaks HTTP/2. curl 7.88 sends no second request on such a
    /// connection: the request fails with status 16, also at other servers. So each run makes one request.
    TwoPriorKnowledge,
}

/// Runs curl for some requests on one connection, and returns the number of connections that curl has made.
fn curl(site: &Site, version: Version) -> usize {
    let (option, number, requests) = match version {
        Version::One => ("--http1.1", "1.1", REQUESTS),
        Version::Two => ("--http2", "2", REQUESTS),
        Version::TwoPriorKnowledge => ("--http2-prior-knowledge", "2", 1),
    };
    let mut curl = installed("curl").expect("it is there");
    // The requests come one after the other, with some time between them, so that reloads come between them as well.
    curl.args(["--silent", "--show-error", "--fail", "--rate", "200/s", option])
        .args(["--write-out", "\n%{http_version} %{http_code} %{num_connects}\n"])
        .args(["--resolve", &format!("{NAME}:{}:127.0.0.1", site.server.addr().port()), "--cacert"])
        .arg(&site.identity.certificate)
        .arg(format!("{}?[1-{requests}]", site.url_at(NAME)));
    let said = succeed(&mut curl);
    let answered = format!("{number} 200 ");
    let connects: Vec<usize> = said.lines().filter_map(|line| line.strip_prefix(&answered)?.parse().ok()).collect();
    assert!(connects.len() == requests && said.matches(PAGE).count() == requests, "{said}");
    connects.iter().sum()
}

fn curl_loses_nothing(transport: Transport, version: Version) {
    if installed("curl").is_none() {
        return;
    }
    let site = Site::new(transport);
    assert_eq!(curl(&site, version), 1, "curl keeps its connection when nothing happens");
    let mut connects = 0;
    let runs = repeat_while_reloading(&site.server, || connects += curl(&site, version));
    println!("{runs} runs of curl with {version:?}, {connects} connections");
}

#[test]
fn curl_with_http_1() {
    curl_loses_nothing(Transport::Plain, Version::One);
}

#[test]
fn curl_with_http_1_over_tls() {
    curl_loses_nothing(Transport::Tls, Version::One);
}

#[test]
fn curl_with_http_2() {
    curl_loses_nothing(Transport::Plain, Version::TwoPriorKnowledge);
}

#[test]
fn curl_with_http_2_over_tls() {
    curl_loses_nothing(Transport::Tls, Version::Two);
}

/// What h2load reports of its requests. Its exit status is 0 also if all of them have failed.
#[derive(Debug, PartialEq, Eq)]
struct Requests {
    total: usize,
    started: usize,
    succeeded: usize,
}

impl Requests {
    fn all(number: usize) -> Requests {
        Requests { total: number, started: number, succeeded: number }
    }
}

fn h2load(site: &Site, args: &[&str]) -> Requests {
    let said = succeed(installed("h2load").expect("it is there").args(args).arg(site.url()));
    let line = said.lines().find_map(|line| line.strip_prefix("requests: "));
    let number = |name: &str| {
        let field = line?.split(", ").find_map(|field| field.strip_suffix(name))?;
        field.trim().parse::<usize>().ok()
    };
    let requests =
        |total, started, succeeded| Some(Requests { total: total?, started: started?, succeeded: succeeded? });
    let requests = requests(number("total"), number("started"), number("succeeded"));
    requests.unwrap_or_else(|| panic!("no requests in {said}"))
}

/// h2load with HTTP/1.1 reconnects. The number limits the run, because h2load 1.52 often does not end at a time limit if it
/// has to reconnect at that moment.
fn h2load_loses_nothing_with_http_1(transport: Transport) {
    const REQUESTS: usize = 4000;
    if installed("h2load").is_none() {
        return;
    }
    let site = Site::new(transport);
    let args = ["--h1", "-c", "8", "-n", &REQUESTS.to_string()];
    let (requests, reloads) = while_reloading(&site.server, || h2load(&site, &args));
    println!("{requests:?} of h2load, {reloads} reloads");
    assert_eq!(requests, Requests::all(REQUESTS));
    assert!(reloads >= 3, "{reloads} reloads");
}

#[test]
fn h2load_with_http_1() {
    h2load_loses_nothing_with_http_1(Transport::Plain);
}

#[test]
fn h2load_with_http_1_over_tls() {
    h2load_loses_nothing_with_http_1(Transport::Tls);
}

/// h2load with HTTP/2 does not reconnect after a GOAWAY: it gives up what it has not begun, and also counts as begun what
/// waits in its own queue by then. So h2load makes short runs, and the server tells clients to go so late that only the
/// first connection of a generation is told within a run. `nothing_lost` counts each request of HTTP/2.
fn h2load_loses_nothing_with_http_2(transport: Transport) {
    const REQUESTS: usize = 200;
    const CONNECTIONS: usize = 4;
    const STREAMS: usize = 5;
    if installed("h2load").is_none() {
        return;
    }
    let site = Site::with(transport, &["--idle-grace", "100h"]);
    let args = ["-n", &REQUESTS.to_string(), "-c", &CONNECTIONS.to_string(), "-m", &STREAMS.to_string()];
    assert_eq!(h2load(&site, &args), Requests::all(REQUESTS));
    let mut succeeded = 0;
    let runs = repeat_while_reloading(&site.server, || {
        let requests = h2load(&site, &args);
        succeeded += requests.succeeded;
        assert!(requests.started - requests.succeeded < STREAMS * CONNECTIONS, "{requests:?}");
    });
    println!("{runs} runs of h2load, {succeeded} requests of {}", runs * REQUESTS);
    assert!(succeeded > runs * REQUESTS / 2, "{succeeded} in {runs} runs");
}

#[test]
fn h2load_with_http_2() {
    h2load_loses_nothing_with_http_2(Transport::Plain);
}

#[test]
fn h2load_with_http_2_over_tls() {
    h2load_loses_nothing_with_http_2(Transport::Tls);
}

/// nghttp sends all its requests at once. Its exit status is 0 also if none was answered.
fn nghttp(site: &Site) {
    let mut nghttp = installed("nghttp").expect("it is there");
    let said = succeed(nghttp.args(["--null-out", "--stat", "--multiply", &REQUESTS.to_string()]).arg(site.url()));
    // A row of the table: identifier, end of the response, start of the request, time, status, size, path.
    let is_answered = |row: &&str| row.split_whitespace().nth(4) == Some("200") && row.ends_with(" /page");
    assert_eq!(said.lines().filter(is_answered).count(), REQUESTS, "{said}");
    assert!(!said.contains("were not processed"), "{said}");
}

fn nghttp_loses_nothing(transport: Transport) {
    if installed("nghttp").is_none() {
        return;
    }
    let site = Site::new(transport);
    nghttp(&site);
    repeat_while_reloading(&site.server, || nghttp(&site));
}

#[test]
fn nghttp_plain() {
    nghttp_loses_nothing(Transport::Plain);
}

#[test]
fn nghttp_over_tls() {
    nghttp_loses_nothing(Transport::Tls);
}

/// The number after this name in the report of ab.
fn reported(report: &str, name: &str) -> u64 {
    let line = report.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {report}"))
}

fn ab_loses_nothing(transport: Transport) {
    // The time limits the run, so that a fast machine does not end before the reloads. The number is only an upper
    // limit, and comes last, because `-t` sets it anew.
    const SECONDS: &str = "5";
    const NO_LIMIT: &str = "5000000";
    const CLIENTS: u64 = 8;
    let Some(mut ab) = installed("ab") else { return };
    let site = Site::new(transport);
    ab.args(["-k", "-q", "-c", &CLIENTS.to_string(), "-t", SECONDS, "-n", NO_LIMIT]).arg(site.url());
    let (ended, reloads) = while_reloading(&site.server, || output(&mut ab));
    assert!(reloads > RELOADS, "it had ended after {reloads} reloads");
    let report = text(&ended);
    assert!(ended.status.success(), "{report}");
    assert_eq!(reported(&report, "Failed requests:"), 0, "{report}");
    // Each reload ends the kept connections, and nothing else ends them.
    let (complete, kept) = (reported(&report, "Complete requests:"), reported(&report, "Keep-Alive requests:"));
    let reloads = u64::try_from(reloads).expect("few");
    assert!(kept < complete && kept >= complete.saturating_sub((reloads + 1) * CLIENTS), "{report}");
    assert!(!site.server.log_contains("not steered"), "{}", site.server.log());
}

#[test]
fn ab_with_keep_alive_loses_nothing_over_reloads() {
    ab_loses_nothing(Transport::Plain);
}

#[test]
fn ab_with_keep_alive_over_tls_loses_nothing_over_reloads() {
    ab_loses_nothing(Transport::Tls);
}

#[test]
fn nc_that_has_said_all_gets_its_answer() {
    const TIMES: usize = 50;
    if installed("nc.openbsd").is_none() {
        return;
    }
    let site = Site::new(Transport::Plain);
    let address = site.server.addr();
    // The reloads run concurrently, so that each moment of a reload meets a client.
    let (answers, reloads) = while_reloading(&site.server, || {
        let mut answers = 0;
        for _ in 0..TIMES {
            let mut nc = Command::new("nc.openbsd");
            nc.args(["-N", "-w", "10", &address.ip().to_string(), &address.port().to_string()]);
            let mut nc =
                nc.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
            // The end of the input makes nc shut its writing side down.
            let mut input = nc.stdin.take().expect("piped");
            input.write_all(b"GET /page HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
            drop(input);
            answers += usize::from(text(&nc.wait_with_output().expect("ended")).ends_with(PAGE));
        }
        answers
    });
    assert_eq!(answers, TIMES);
    assert!(reloads > 1, "{reloads}");
}
