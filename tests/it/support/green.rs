//! The parts of a bad next generation that the test binary plays itself, started by `green.sh`.
//!
//! Where the script ends in exec the pid is that of the process which blue has spawned: its words count as green's.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Does nothing in a normal run of the tests: it is the entry of the processes that `green.sh` makes.
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

/// Listens where blue does, as a next generation would.
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

/// A thousand datagrams a second, as long as blue lives.
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
