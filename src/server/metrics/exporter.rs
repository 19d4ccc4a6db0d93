//! What the server counts, in the text format of Prometheus, on a port of its own (`server --metrics`).
//!
//! Looked at before taking `prometheus-client`, which is Prometheus' own and pulls in four small crates:
//! `prometheus`, whose metrics belong to a registry that all who count must know, and the exporter of
//! `metrics`, which brings hyper with it. Here the library encodes, and keeps the histograms.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::{self, CONTENT_TYPE};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{Counter, Family};
use crate::os::describe;
use crate::server::handshake::{self, Method, Refusal, refuse};
use crate::server::limits::Limits;
use crate::server::rooms::Rooms;

/// Seconds, from a commit to a fast disk to more than anything may take here.
const BUCKETS: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

const NOT_HERE: Refusal = refuse(StatusCode::NOT_FOUND, "the metrics are at /metrics");
const NOT_GET: Refusal = refuse(
    StatusCode::METHOD_NOT_ALLOWED,
    "the metrics can be read and nothing else",
);

/// How long something took, each time.
#[derive(Debug)]
pub struct Times(LazyLock<Histogram>);

impl Times {
    pub(super) const fn new() -> Self {
        Self(LazyLock::new(|| Histogram::new(BUCKETS)))
    }

    /// It took so long.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

/// The port where whoever asks gets the metrics.
#[derive(Debug)]
pub struct Exporter(TcpListener);

impl Exporter {
    /// Listens at `address`. Who comes waits until [`Exporter::serve`].
    ///
    /// # Errors
    ///
    /// One line that says why it cannot listen.
    pub async fn bind(address: &str) -> Result<Self, String> {
        let tcp = TcpListener::bind(address).await;
        tcp.map(Self).map_err(|error| {
            let why = describe(&error);
            format!("cannot listen on {address} for --metrics: {why} (choose another)")
        })
    }

    /// Answers whoever asks, from now on. To be called within a Tokio runtime.
    pub fn serve(self, rooms: &Arc<Rooms>, limits: &Limits) {
        let mut registry = Registry::with_prefix("chat");
        registry.register_collector(Box::new(Chat(rooms.clone())));
        tokio::spawn(serve(self.0, Arc::new(registry), limits.clone()));
    }
}

/// Answers a few at once; the next ones wait in the listener's queue.
async fn serve(tcp: TcpListener, registry: Arc<Registry>, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.scrapes));
    while let Ok(place) = places.clone().acquire_owned().await {
        // Whatever is wrong, such as that there is no descriptor left, is over some day.
        let Ok((mut stream, _)) = tcp.accept().await else {
            sleep(limits.rest).await;
            continue;
        };
        let (registry, limits) = (registry.clone(), limits.clone());
        tokio::spawn(async move {
            let _place = place;
            answer(&mut stream, &registry, &limits).await;
        });
    }
}

async fn answer(stream: &mut TcpStream, registry: &Registry, limits: &Limits) {
    let asked = timeout(limits.handshake, asked(stream, limits)).await;
    let answer = async {
        match asked.unwrap_or(Err(handshake::LATE)) {
            Ok(method) => {
                let mut text = String::new();
                // A String takes everything.
                let _ = prometheus_text::encode(&mut text, registry);
                let (status, kind) = (StatusCode::OK, CONTENT_TYPE);
                handshake::respond(stream, status, "", kind, &text, method).await;
            }
            Err(refusal) => handshake::answer(stream, &refusal).await,
        }
    };
    // Who does not take it in time does without.
    let _ = timeout(limits.close, answer).await;
}

/// Reads a request, and returns how it asks for the metrics.
async fn asked(stream: &mut TcpStream, limits: &Limits) -> Result<Method, Refusal> {
    let head = handshake::read_head(stream, limits.head).await?;
    let mut fields = [httparse::EMPTY_HEADER; handshake::FIELDS];
    let request = handshake::parse(&head.bytes, &mut fields)?;
    let method = Method::of(&request).ok_or(NOT_GET)?;
    let target = handshake::target(&request)?;
    (target.path() == "/metrics")
        .then_some(method)
        .ok_or(NOT_HERE)
}

/// What there is to tell, looked up when somebody asks.
#[derive(Debug)]
struct Chat(Arc<Rooms>);

impl Collector for Chat {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut tell = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            let kind = metric.metric_type();
            metric.encode(encoder.encode_descriptor(name, help, None, kind)?)
        };
        let gauge = ConstGauge::<u64>::new;
        let total = |counter: &Counter| ConstCounter::<u64>::new(counter.get());
        let (rooms, sessions) = self.0.count();
        let is_well = u64::from(self.0.health().is_ok());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        tell("build", "The version of the server.", &build)?;
        tell("healthy", "1 if /healthz says ok, else 0.", &gauge(is_well))?;
        tell(
            "open_connections",
            "Connections that are in a room now.",
            &gauge(super::OPEN.get()),
        )?;
        tell(
            "connections",
            "Connections that came into a room.",
            &total(&super::CONNECTIONS),
        )?;
        tell("rooms", "Rooms that are there now.", &gauge(rooms))?;
        tell(
            "sessions",
            "Sessions that are known now, with a connection or without.",
            &gauge(sessions),
        )?;
        tell("lines", "Lines taken from clients.", &total(&super::LINES))?;
        tell(
            "deliveries",
            "Lines handed on to receivers, one for each receiver.",
            &total(&super::DELIVERIES),
        )?;
        tell(
            "missed_lines",
            "Lines that receivers were told they had missed, where it is known how many.",
            &total(&super::MISSED),
        )?;
        tell(
            "received_bytes",
            "Bytes from clients, without TLS.",
            &total(&super::RECEIVED),
        )?;
        tell(
            "sent_bytes",
            "Bytes to clients, without TLS.",
            &total(&super::SENT),
        )?;
        tell(
            "dropped_log_lines",
            "Lines of output that were dropped, since nobody read it.",
            &total(&super::DROPPED),
        )?;
        tell(
            "held_speakers",
            "Those who wait to speak until receivers, or a store, have taken what was said before.",
            &gauge(super::HELD.get()),
        )?;
        tell(
            "held_seconds",
            "How long those waited who had to.",
            &*super::HOLDS.0,
        )?;
        tell(
            "handshake_seconds",
            "From a TCP connection to a place in a room, with TLS and all.",
            &*super::HANDSHAKES.0,
        )?;
        tell(
            "commit_seconds",
            "How long commits to the file of --store took.",
            &*super::COMMITS.0,
        )?;
        tell(
            "publish_seconds",
            "How long lines took to NATS and back.",
            &*super::PUBLISHES.0,
        )?;
        tell(
            "refusals",
            "Strangers that were refused, by HTTP status; none: without an answer.",
            &Labelled("status", &super::REFUSALS),
        )?;
        tell(
            "closes",
            "Connections that ended, by the code of the Close; 1006: without one.",
            &Labelled("code", &super::CLOSES),
        )
    }
}

/// Counters with the name of what they differ in.
struct Labelled<'a, const N: usize>(&'static str, &'a Family<N>);

impl<const N: usize> EncodeMetric for Labelled<'_, N> {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::MetricEncoder,
    ) -> Result<(), fmt::Error> {
        for (value, count) in self.1.iter() {
            let label = [(self.0, value)];
            ConstCounter::<u64>::new(count).encode(encoder.encode_family(&label)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        ConstCounter::<u64>::TYPE
    }
}
