//! Numbers for Prometheus.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::job::State;
use crate::pipeline::Times;

/// Upper bounds of the buckets, seconds.
const SECONDS: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: String,
    /// The pattern, like `/v1/jobs/{id}`: a client cannot make new ones.
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of them.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Route, Counter>,
    durations: Histograms<Route>,
    in_flight: Gauge,
    queue: Gauge,
    jobs: Family<Outcome, Counter>,
    faults: Family<Code, Counter>,
    stages: Histograms<Stage>,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<Route, Counter>::default();
        let durations: Histograms<Route> = Family::new_with_constructor(seconds);
        let (in_flight, queue) = (Gauge::default(), Gauge::default());
        let (jobs, faults) = (Family::<Outcome, Counter>::default(), Family::<Code, Counter>::default());
        let stages: Histograms<Stage> = Family::new_with_constructor(seconds);
        registry.register("http_requests", "Requests that were answered", requests.clone());
        registry.register("http_request_duration_seconds", "Time until the answer began", durations.clone());
        registry.register("http_requests_in_flight", "Requests that are being answered", in_flight.clone());
        registry.register("cascade_queue_depth", "Orders that wait", queue.clone());
        registry.register("cascade_jobs", "Orders that ended, by how", jobs.clone());
        registry.register("cascade_faults", "Orders that failed, by why", faults.clone());
        registry.register("cascade_stage_seconds", "Time of each stage of an order", stages.clone());
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("cascade_build", "The program", build);
        Self { registry, requests, durations, in_flight, queue, jobs, faults, stages }
    }

    pub(super) fn begin(&self) {
        self.in_flight.inc();
    }

    pub(super) fn answered(&self, method: &str, route: &str, status: u16, time: Duration) {
        self.in_flight.dec();
        let route = Route { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&route).inc();
        self.durations.get_or_create(&route).observe(time.as_secs_f64());
    }

    pub(super) fn job(&self, state: State, times: &Times) {
        self.jobs.get_or_create(&Outcome { outcome: state.name() }).inc();
        if state == State::Completed {
            let Times { plan, text, stage_c, stage_b, stage_a } = *times;
            let all = [("plan", plan), ("text", text), ("c", stage_c), ("b", stage_b), ("a", stage_a)];
            for (stage, time) in all {
                self.stages.get_or_create(&Stage { stage }).observe(time.as_secs_f64());
            }
        }
    }

    pub(super) fn fault(&self, code: &'static str) {
        self.faults.get_or_create(&Code { code }).inc();
    }

    /// The text that Prometheus reads.
    pub(super) fn text(&self, queue: usize) -> String {
        self.queue.set(queue as i64);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}
