//! Serves `/metrics` on a TCP port that belongs to the supervisor itself.

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::runtime::accept::EXHAUSTED;
use crate::runtime::control::{ControlTarget, metrics_service};

/// Serves connections until the task is aborted.
pub(super) async fn serve(listener: TcpListener, control_target: ControlTarget) {
    let service = metrics_service(control_target);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = service.clone();
                tokio::spawn(async move {
                    let mut http = http1::Builder::new();
                    http.timer(TokioTimer::new());
                    // An error is the client's.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Err(_) => tokio::time::sleep(EXHAUSTED).await,
        }
    }
}
