//! A client of HTTP/2: several requests at a time on one connection, until the server announces the end of the connection.

use super::Answer;
use super::answer::{Author, Message};
use super::client::{Client, Fault, Kind, fault};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest, handshake};
use hyper::{Request, Version};
use std::time::Instant;
use tokio::time::timeout;

pub(super) type Sender = SendRequest<Bytes>;

impl Client {
    /// Performs some requests at once. A connection that can take more of them is left in `held`.
    pub(super) async fn round_http2(&mut self, held: &mut Option<Sender>) -> Result<(), Fault> {
        self.owed = 1;
        let mut sender = match held.take() {
            Some(sender) => sender,
            None => self.handshake().await?,
        };
        let uri = format!("http://{}{}", self.target, self.plan.path);
        let (begun, limit) = (Instant::now(), self.plan.timeout);
        let mut answers = Vec::new();
        let mut is_over = false;
        for _ in 0..self.requests {
            // An error means that the server takes no further request on this connection: nothing was sent.
            let Ok(ready) = sender.clone().ready().await else {
                is_over = true;
                break;
            };
            sender = ready;
            let request = Request::get(&uri).version(Version::HTTP_2).body(()).expect("a request");
            match sender.send_request(request, true) {
                Ok((response, _)) => answers.push(tokio::spawn(answer(response, self.plan.answer.clone()))),
                Err(_) => is_over = true,
            }
        }
        self.owed = answers.len() as u64;
        for answer in answers {
            self.nth += 1;
            let answered = timeout(limit, answer).await;
            let answered = answered.map_err(|_| Fault::Server(Kind::Timeout, format!("no answer in {limit:?}")))?;
            self.owed -= 1;
            match answered.expect("a request does not panic") {
                Ok(author) => {
                    let latency = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.tally.latency.saturating_record(latency);
                    self.note(author);
                    self.shared.count_answer();
                }
                Err((kind, text)) => {
                    self.tell(kind, &text);
                    is_over = true;
                }
            }
        }
        if !is_over {
            *held = Some(sender);
        }
        Ok(())
    }

    async fn handshake(&mut self) -> Result<Sender, Fault> {
        let connection = self.connect().await?;
        let shaken = handshake(connection).await;
        let (sender, connection) = shaken.map_err(|e| Fault::Server(Kind::Other, format!("handshake: {e}")))?;
        // The requests report its errors.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// The author of the answer to a request that was sent.
async fn answer(response: ResponseFuture, expected: Answer) -> Result<Option<Author>, (Kind, String)> {
    let response = response.await.map_err(|e| classify(&e))?;
    let status = response.status().as_u16();
    let (mut body, mut whole) = (response.into_body(), Vec::new());
    while let Some(part) = body.data().await {
        let part = part.map_err(|e| classify(&e))?;
        body.flow_control().release_capacity(part.len()).map_err(|e| classify(&e))?;
        whole.extend_from_slice(&part);
    }
    expected.judge(&Message::of(status, &whole)).map_err(|text| (Kind::Wrong, text))
}

fn classify(error: &h2::Error) -> (Kind, String) {
    match error.get_io().map(|io| fault("HTTP/2", io)) {
        Some(Fault::Server(kind, text)) => (kind, text),
        Some(Fault::Client(text)) => (Kind::Other, text),
        None => (Kind::Other, format!("HTTP/2: {error}")),
    }
}
