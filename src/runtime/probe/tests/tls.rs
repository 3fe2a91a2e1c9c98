//! The probe of listeners that speak TLS.

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;

fn acceptor(alpn: &[u8]) -> TlsAcceptor {
    let certified = rcgen::generate_simple_self_signed(vec!["elsewhere".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .expect("they belong together");
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// What a TLS server has received.
#[derive(Default)]
struct Told {
    /// The server name of each handshake that succeeded.
    names: Mutex<Vec<Option<String>>>,
    /// The number of connections whose first byte is not that of a TLS handshake.
    plain: AtomicUsize,
}

/// The type of the record with which each TLS connection begins (RFC 8446, section 5.1: handshake).
const HANDSHAKE: u8 = 22;

async fn start(alpn: &[u8], text: &'static str) -> (SocketAddr, Arc<Told>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (all, acceptor) = (Arc::<Told>::default(), acceptor(alpn));
    let told = all.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            let mut first = [0];
            if stream.peek(&mut first).await.is_ok_and(|read| read == 1) && first[0] != HANDSHAKE {
                told.plain.fetch_add(1, Ordering::Relaxed);
            }
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            told.names.lock().expect("sound").push(stream.get_ref().1.server_name().map(str::to_owned));
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(text.as_bytes()).await.expect("it is read");
            let _ = stream.shutdown().await;
        }
    });
    (address, all)
}

#[tokio::test]
async fn tls_is_found_out_whoever_signed_the_certificate() {
    let (address, told) = start(b"http/1.1", OK).await;
    let steering = Steering::default();
    assert_eq!(pass(&target("/"), address, SOON, |source| ready(steering.note(source))).await, Ok(()));
    assert_eq!(steering.sources().len(), 2, "plain first");
    for text in ["https:/", "https://name/", "https://[::1]/"] {
        assert_eq!(pass(&target(text), address, SOON, |_| ready(Ok(()))).await, Ok(()));
    }
    assert_eq!(*told.names.lock().expect("sound"), [None, None, Some("name".to_owned()), None]);
}

#[tokio::test]
async fn once_found_out_it_is_not_asked_in_plain_again() {
    let (address, told) = start(b"http/1.1", UNAVAILABLE).await;
    let probed = pass(&target("/"), address, Duration::from_secs(1), |_| ready(Ok(()))).await;
    let said = probed.expect_err("it is unavailable");
    assert_eq!(said, format!("did not pass the probe https://{address}/ in 1s: it answered 503 Service Unavailable"));
    assert!(told.names.lock().expect("sound").len() > 1, "it was asked again");
    assert_eq!(told.plain.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_server_that_says_400_to_plain_http_is_tried_with_tls() {
    // nginx does the same on a TLS port. Here each second connection is a TLS connection.
    let bench = Bench::start(|_| Answer::Say("HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    bench.probe("/", SHORT).await.expect_err("it is none");
    let requests = bench.requests.lock().expect("sound");
    assert!(requests[0].starts_with("GET"), "{requests:?}");
    assert!(!requests[1].starts_with("GET"), "{requests:?}");
    assert!(requests[2..].iter().all(|request| request.starts_with("GET")), "it speaks plain HTTP: {requests:?}");
}

#[tokio::test]
async fn a_handshake_that_fails_is_more_telling_than_plain_http() {
    let (address, _) = start(b"h2", OK).await;
    let said = pass(&target("/"), address, SHORT, |_| ready(Ok(()))).await.expect_err("it wants HTTP/2");
    let begin = format!("did not pass the probe https://{address}/ in 500ms: the TLS handshake failed: ");
    assert!(said.starts_with(&begin), "{said}");
}

#[tokio::test]
async fn https_of_a_plain_server_is_said_to_be_none() {
    for (answer, words) in [
        (Answer::Say(OK), "it speaks no TLS: its answer is something else"),
        (Answer::Close, "it speaks no TLS: it closed the connection in the handshake"),
    ] {
        let bench = Bench::start(move |_| answer).await;
        let said = bench.probe("https:/", SHORT).await.expect_err("no TLS");
        assert_eq!(said, format!("did not pass the probe https://{}/ in 500ms: {words}", bench.address));
    }
}
