use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::model::steering::Program;
use crate::sys::socket::Stack;
use crate::sys::steering;

fn listen(address: &str, stack: Stack) -> TcpListener {
    let bound = socket::bind(address.parse().expect("an address"), Sharing::Alone, stack).expect("a free port");
    bound.listen(64).expect("listens")
}

fn clients(port: u16, stack: Stack) -> Vec<SocketAddr> {
    let hosts: &[&str] = if stack == Stack::Dual { &["127.0.0.1", "[::1]"] } else { &["[::1]"] };
    hosts.iter().map(|host| format!("{host}:{port}").parse().expect("an address")).collect()
}

#[test]
fn it_steers_the_listeners_of_others_and_gets_nothing() {
    for (address, stack) in [("127.0.0.1:0", Stack::Dual), ("[::]:0", Stack::Dual), ("[::]:0", Stack::Single)] {
        let theirs = listen(address, stack);
        let at = theirs.local_addr().expect("bound");
        let mut to = clients(at.port(), stack);
        to.retain(|client| at.is_ipv6() || client.is_ipv4());
        let placeholder = BoundPlaceholder::new(at).expect("the same user").join().expect("joins");
        assert_eq!(sock_diag::group(at).expect("sock_diag").len(), 2);
        steering::attach(&placeholder, &Program::one_of(&[0]).expect("one")).expect("attached");
        for client in to.iter().cycle().take(40) {
            TcpStream::connect(client).expect("never dropped").shutdown(Shutdown::Both).expect("shut");
            assert!(socket::accept_now(&theirs).expect("accept").is_some());
        }
        steering::attach(&placeholder, &Program::one_of(&[1]).expect("one")).expect("attached");
        for client in &to {
            let refused = TcpStream::connect_timeout(client, Duration::from_millis(100)).expect_err("it was dropped");
            assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        }
        drop(placeholder);
        assert_eq!(sock_diag::group(at).expect("sock_diag").len(), 1);
    }
}

/// The client of a dropped SYN waits for a second, and has the connection then.
#[test]
fn what_it_drops_comes_again() {
    let theirs = listen("127.0.0.1:0", Stack::Single);
    let at = theirs.local_addr().expect("bound");
    let placeholder = BoundPlaceholder::new(at).expect("the same user").join().expect("joins");
    steering::attach(&placeholder, &Program::one_of(&[1]).expect("one")).expect("attached");
    let client = std::thread::spawn(move || TcpStream::connect(at));
    let dropped = || sock_diag::drops(at).expect("sock_diag").values().sum::<u32>();
    while dropped() == 0 {
        std::thread::yield_now();
    }
    steering::attach(&placeholder, &Program::one_of(&[0]).expect("one")).expect("attached");
    client.join().expect("no panic").expect("connected");
}

#[test]
fn where_a_port_is_not_shared_it_does_not_join() {
    let alone = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let error = BoundPlaceholder::new(alone.local_addr().expect("bound")).expect_err("not shared");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}
