//! The behaviours of a faulty next generation that the test binary implements. `green.sh` starts them.
//!
//! Where the script ends in exec, the process keeps the pid of the one that blue has spawned, so blue accepts its
//! notifications as green's.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The entry point of the processes that `green.sh` starts. In a normal test run this test does nothing.
#[test]
fn plays_its_part() {
    let Ok(part) = std::env::var("GREEN_PART") else { return };
    match part.as_str() {
        "ready-deaf" => {
            notify(b"READY=1");
            rest();
        }
        "ready-and-go" => notify(b"READY=1"),
        "ready-elsewhere" => {
            let _elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
            notify(b"READY=1");
            rest();
        }
        "ready-and-dead" => {
            let _beside = listen_beside_blue();
            let go = std::env::var_os("GREEN_OUT").expect("the file that says go");
            while !std::path::Path::new(&go).exists() {
                std::thread::yield_now();
            }
            notify(b"READY=1");
            std::process::abort();
        }
        "malformed" => {
            for datagram in [&b""[..], b"READY", b"READY=1\xff", b"=\n=", &[b'A'; 100_000], b"READY=0"] {
                notify(datagram);
            }
            rest();
        }
        "errno" => {
            notify(b"ERRNO=98");
            rest();
        }
        "flood" => flood(Duration::from_secs(3)),
        other => panic!("no such part: {other}"),
    }
}

fn rest() -> ! {
    loop {
        std::thread::park();
    }
}

/// Listens on blue's address, as a next generation does.
fn listen_beside_blue() -> socket2::Socket {
    let birth = std::env::var("CUTOVER_BIRTH").expect("blue's certificate");
    let birth: serde_json::Value = serde_json::from_str(&birth).expect("JSON");
    let address = birth["addresses"][0]["bound"].as_str().expect("an address");
    super::join_group(address.parse().expect("an address"))
}

fn blue() -> SocketAddr {
    let name = std::env::var("CUTOVER_NOTIFY_SOCKET").expect("blue's socket");
    SocketAddr::from_abstract_name(name.strip_prefix('@').expect("an abstract name")).expect("a name")
}

fn notify(datagram: &[u8]) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to_addr(datagram, &blue()).expect("sent to blue");
}

/// Sends 1000 datagrams per second to blue for this time, or until blue has ended.
fn flood(time: Duration) {
    let (socket, blue, began) = (UnixDatagram::unbound().expect("a socket"), blue(), Instant::now());
    let mut sent = 0;
    while began.elapsed() < time {
        if f64::from(sent) < began.elapsed().as_secs_f64() * 1000.0 {
            if socket.send_to_addr(b"READY=1\nSTATUS=flood", &blue).is_err() {
                return;
            }
            sent += 1;
        } else {
            std::thread::yield_now();
        }
    }
}
