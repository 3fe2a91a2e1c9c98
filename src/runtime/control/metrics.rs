//! The status as metrics, in the text format of OpenMetrics, which Prometheus reads.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::endpoint::Counts;
use crate::model::event::{Outcome, Phase};
use crate::model::share::Share;
use crate::model::status::{ConnectionKinds, GenerationStatus, LastReload, Status};
use crate::runtime::requests::{NoResponse, Requests, Times};

/// The content type of the text.
pub(super) const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const OPEN: &str = "Open connections of the generation that answers";

type Labels = Vec<(&'static str, String)>;
type Real = Gauge<f64, AtomicU64>;

/// All metrics of this generation. The counters of reloads continue from generation to generation; all other metrics
/// are those of this generation.
pub(super) fn text(status: &Status, counts: &Counts) -> String {
    let mut registry = Registry::with_prefix("cutover");
    about(&mut registry, status);
    rollout(&mut registry, status);
    reloads(&mut registry, status);
    open(&mut registry, status, counts);
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn about(to: &mut Registry, status: &Status) {
    let info = vec![("name", status.name.clone()), ("version", status.version.clone())];
    to.register("build", "The instance that answers", Info::new(info));
    if let Some(own) = own(status) {
        to.register("generation", "The number of the generation that answers", whole(own.generation.number().into()));
        let age = own.age.unwrap_or_default().as_secs_f64();
        to.register_with_unit(
            "age",
            "How long the process of the generation that answers has lived",
            Unit::Seconds,
            real(age),
        );
    }
    let steering = family([("tier", status.steering.to_string().replace(' ', "_"))], 1);
    to.register("steering", "How new connections are moved: steered, migrating or best_effort", steering);
}

/// The generation that answers: the only one with the kinds of its connections in the status. Under `cutover run`,
/// which does not know the kinds, the live generation.
fn own(status: &Status) -> Option<&GenerationStatus> {
    let of_itself = status.generations.iter().find(|generation| generation.kinds.is_some());
    let is_live = |of: &&GenerationStatus| !matches!(of.phase, Phase::Standby | Phase::Starting | Phase::Draining);
    of_itself.or_else(|| status.generations.iter().find(is_live))
}

fn rollout(to: &mut Registry, status: &Status) {
    let phase = own(status).map_or(Phase::Serving, |own| own.phase);
    to.register("phase", "The phase of the generation that answers", family([("phase", phase.to_string())], 1));
    let share = status.rollout.as_ref().map_or(Share::NONE, |rollout| rollout.share);
    let help = "The part of new connections that the next generation gets, 0 to 1";
    to.register("next_share", help, real(share.as_percent() / 100.0));
    let draining = status.generations.iter().filter(|generation| generation.phase == Phase::Draining).count();
    to.register("draining_generations", "Generations that finish their connections", whole(signed(draining)));
}

fn reloads(to: &mut Registry, status: &Status) {
    let reloads = Family::<Labels, Counter>::default();
    for (outcome, count) in [("done", status.reloads_done), ("rolled_back", status.reloads_rolled_back)] {
        reloads.get_or_create(&vec![("outcome", outcome.to_owned())]).inc_by(count);
    }
    to.register("reloads", "Reloads since the instance was started, over all generations", reloads);
    if let Some(LastReload { outcome, at }) = &status.last_reload {
        let (Outcome::Done { took, .. } | Outcome::RolledBack { took, .. }) = outcome;
        let help = "How long the last reload took, from the request to its outcome";
        to.register_with_unit("last_reload_duration", help, Unit::Seconds, real(took.as_secs_f64()));
        let at = whole(i64::try_from(*at).unwrap_or(i64::MAX));
        to.register_with_unit("last_reload_timestamp", "When the last reload ended", Unit::Seconds, at);
    }
}

fn open(to: &mut Registry, status: &Status, counts: &Counts) {
    let connections = match counts {
        Counts::Own(connections) => connections,
        Counts::Watched(_) => {
            let open = own(status).and_then(|own| own.connections).and_then(|open| i64::try_from(open).ok());
            return to.register("connections", OPEN, family([("kind", "tcp".to_owned())], open.unwrap_or_default()));
        }
    };
    let ConnectionKinds { fresh, http1, http2, upgraded, tcp } = connections.kinds();
    let open = Family::<Labels, Gauge>::default();
    let kinds = [("fresh", fresh), ("http1", http1), ("http2", http2), ("upgraded", upgraded), ("tcp", tcp)];
    for (kind, count) in kinds {
        open.get_or_create(&vec![("kind", kind.to_owned())]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    to.register("connections", OPEN, open);
    requests(to, connections.requests());
    let accepted = Counter::<u64>::default();
    accepted.inc_by(u64::try_from(connections.accepted()).unwrap_or(u64::MAX));
    to.register("connections_accepted", "Connections that the generation that answers has accepted", accepted);
}

fn requests(to: &mut Registry, requests: &Requests) {
    let responses = Family::<Labels, Counter>::default();
    for (class, count) in requests.responses() {
        responses.get_or_create(&vec![("class", class.to_owned())]).inc_by(count);
    }
    to.register("responses", "Responses of the application, by class of the status", responses);
    let without = Family::<Labels, Counter>::default();
    let reasons = [("error", NoResponse::Error), ("panic", NoResponse::Panic), ("cancelled", NoResponse::Cancelled)];
    for (reason, why) in reasons {
        without.get_or_create(&vec![("reason", reason.to_owned())]).inc_by(requests.without_response(why));
    }
    to.register("requests_without_response", "Requests to which the application has made no response", without);
    let help = "From the moment at which the application has the request to the head of its response";
    to.register_with_unit("time_to_response", help, Unit::Seconds, Histogram::of(&requests.to_response));
    let help = "From the moment at which the application has the request to the end of its response";
    to.register_with_unit("request_duration", help, Unit::Seconds, Histogram::of(&requests.to_end));
}

/// Times, with a bucket for each doubling.
#[derive(Debug)]
struct Histogram {
    sum: f64,
    buckets: Vec<(f64, u64)>,
}

/// The least bound of a bucket: quicker responses are not told apart.
const LEAST: Duration = Duration::from_micros(256);

impl Histogram {
    fn of(times: &Times) -> Histogram {
        let (mut buckets, mut below) = (Vec::new(), 0);
        let doublings = times.doublings();
        let last = doublings.len() - 1;
        for (nth, (bound, count)) in doublings.into_iter().enumerate() {
            below += count;
            if bound >= LEAST {
                // The last bucket has all that took longer as well.
                let bound = if nth == last { f64::INFINITY } else { bound.as_secs_f64() };
                buckets.push((bound, std::mem::take(&mut below)));
            }
        }
        Histogram { sum: times.sum().as_secs_f64(), buckets }
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let count = self.buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum, count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

fn family(labels: [(&'static str, String); 1], value: i64) -> Family<Labels, Gauge> {
    let family = Family::<Labels, Gauge>::default();
    family.get_or_create(&labels.to_vec()).set(value);
    family
}

fn whole(value: i64) -> Gauge {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    gauge
}

fn real(value: f64) -> Real {
    let gauge = Real::default();
    gauge.set(value);
    gauge
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
