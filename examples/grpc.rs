//! A gRPC server (tonic) whose health service says NOT_SERVING when its generation retires.
//!
//! `cargo run --example grpc`, then `kill -HUP` the process whose pid the example prints. The service `demo.Numbers` has
//! three methods, whose messages are the StringValue and UInt64Value of google/protobuf/wrappers.proto: `Hello`, `Count`
//! up to a number, and `Follow` the numbers after a number. With a certificate and a key the server speaks TLS:
//! `cargo run --example grpc -- 127.0.0.1:50051 cert.pem key.pem`.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http;
use axum::routing::post;
use cutover::{Drain, Server, TlsConfig};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_prost::ProstCodec;
use tower::service_fn;

const SERVICE: &str = "demo.Numbers";
/// The time between two numbers of a stream.
const STEP: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let mut server = Server::bind(address)
        .before_begin(|started| println!("pid {} on {:?}", started.pid, started.addresses))
        .idle_grace(Duration::from_secs(1));
    if let (Some(certificate), Some(key)) = (args.next(), args.next()) {
        server = server.tls(TlsConfig::files(certificate, key));
    }

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    tokio::spawn(report_the_end(reporter, server.drain()));

    // A service that tonic generates from a .proto file is mounted as the health service is. The methods of this example
    // are written without generated code.
    let app = Router::new()
        .route_service("/grpc.health.v1.Health/{method}", health)
        .route("/demo.Numbers/Hello", post(hello))
        .route("/demo.Numbers/Count", post(count))
        .route("/demo.Numbers/Follow", post(follow))
        .with_state(server.drain());
    server.serve(app).await
}

/// Tells those who watch the health of this generation when the generation retires. The streams of `Watch` would keep
/// the generation until the drain timeout, so each stream ends after NOT_SERVING.
async fn report_the_end(mut reporter: HealthReporter, drain: Drain) {
    drain.started().await;
    for service in ["", SERVICE] {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
        reporter.clear_service_status(service).await;
    }
}

/// A unary call: a name, and a greeting with the pid of this process and the number of calls that it has got.
async fn hello(request: Request) -> http::Response<Body> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let hello = service_fn(|name: tonic::Request<String>| async move {
        let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Response::new(format!("hello {}, call {call} of pid {}", name.into_inner(), std::process::id())))
    });
    Grpc::new(ProstCodec::default()).unary(hello, request).await
}

/// A stream that has an end: a draining generation finishes the stream.
async fn count(request: Request) -> http::Response<Body> {
    let count = service_fn(|last: tonic::Request<u64>| async move {
        Ok(Response::new(numbers(1..=last.into_inner(), std::future::pending())))
    });
    Grpc::new(ProstCodec::default()).server_streaming(count, request).await
}

/// A stream without an end: ends when this generation retires. The client asks the next generation for the numbers
/// after the last one that it has received.
async fn follow(State(drain): State<Drain>, request: Request) -> http::Response<Body> {
    let follow = service_fn(|after: tonic::Request<u64>| {
        let drain = drain.clone();
        let retires = async move { drain.started().await };
        async move { Ok(Response::new(numbers(after.into_inner() + 1.., retires))) }
    });
    Grpc::new(ProstCodec::default()).server_streaming(follow, request).await
}

/// Streams these numbers to the last one, or until it is time to go.
fn numbers(
    numbers: impl Iterator<Item = u64> + Send + 'static,
    time_to_go: impl Future<Output = ()> + Send + 'static,
) -> ReceiverStream<Result<u64, Status>> {
    let (sender, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut time_to_go = pin!(time_to_go);
        let mut clock = tokio::time::interval(STEP);
        for number in numbers {
            let room = async {
                clock.tick().await;
                sender.reserve().await
            };
            tokio::select! {
                () = time_to_go.as_mut() => return,
                room = room => match room {
                    Ok(room) => room.send(Ok(number)),
                    // The client has gone.
                    Err(_) => return,
                },
            }
        }
    });
    ReceiverStream::new(stream)
}
