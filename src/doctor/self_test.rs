//! Tries on its own sockets what a rollout needs: steering, and the system calls that belong to it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::model::steering::Program;
use crate::sys::socket::{self, Sharing, Stack};
use crate::sys::{membarrier, pidfd_getfd, process, sock_diag, steering};

/// Time limit of one connection over loopback.
const WAIT: Duration = Duration::from_secs(1);
/// Number of connections for each slot. Without steering, all of them would reach the right listener by chance once in
/// 65,536 times.
const CONNECTIONS: usize = 8;

/// The result of steering two listeners.
#[derive(Debug)]
pub(super) enum Steering {
    Works,
    /// The program was refused.
    Refused(io::Error),
    /// The program was accepted, but connections do not follow it.
    Ignored,
    /// The two listeners could not be opened, or could not be reached.
    Untried(io::Error),
}

/// The results of all trials.
#[derive(Debug)]
pub(super) struct SelfTest {
    pub(super) steering: Steering,
    /// A dump of sock_diag(7) shows both listeners.
    pub(super) sock_diag: io::Result<()>,
    /// A listener can be told to ignore new handshakes, which is the best way without steering.
    pub(super) ignoring: io::Result<()>,
    pub(super) membarrier: io::Result<()>,
    pub(super) pidfd: io::Result<()>,
    /// A listener of another process can be copied, by which `cutover run` steers.
    pub(super) lend: io::Result<()>,
}

/// Runs all trials with a group of two listeners, on a loopback port that the system chooses. Takes some 30 ms, and 2 s
/// if the first connection does not arrive.
pub(super) fn run() -> SelfTest {
    let group = pair(Ipv4Addr::LOCALHOST.into()).or_else(|error| pair(Ipv6Addr::LOCALHOST.into()).map_err(|_| error));
    let (steering, sock_diag, ignoring) = match group {
        Ok(group) => {
            let steering = steer(&group);
            (steering, show(&group), steering::ignore_syns(&group[0]))
        }
        Err(error) => {
            let again = || io::Error::new(error.kind(), error.to_string());
            (Steering::Untried(again()), sock_diag::listeners(1).map(drop), Err(again()))
        }
    };
    let (membarrier, pidfd, lend) = (membarrier::settle(), process::try_pidfd(), pidfd_getfd::try_copy());
    SelfTest { steering, sock_diag, ignoring, membarrier, pidfd, lend }
}

type Group = [TcpListener; 2];

fn pair(loopback: std::net::IpAddr) -> io::Result<Group> {
    let first = socket::bind(SocketAddr::new(loopback, 0), Sharing::Alone, Stack::Single)?;
    let second = socket::bind(first.address, Sharing::Group, Stack::Single)?;
    Ok([first.listen(64)?, second.listen(64)?])
}

fn steer(group: &Group) -> Steering {
    for (slot, wanted) in [(1, 1), (0, 0)] {
        let Some(program) = Program::one_of(&[slot]) else { continue };
        if let Err(error) = steering::attach(&group[0], &program) {
            return Steering::Refused(error);
        }
        for _ in 0..CONNECTIONS {
            match who_gets(group) {
                Ok(who) if who == wanted => {}
                Ok(_) => return Steering::Ignored,
                Err(error) => return Steering::Untried(error),
            }
        }
    }
    Steering::Works
}

/// Opens a connection, and returns the index of the listener that received it.
fn who_gets(group: &Group) -> io::Result<usize> {
    let _client = TcpStream::connect_timeout(&group[0].local_addr()?, WAIT)?;
    let mut ready = group.each_ref().map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
    let wait = Timespec { tv_sec: WAIT.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut ready, Some(&wait))?;
    let who = ready.iter().position(|listener| !listener.revents().is_empty());
    let who =
        who.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "a connection over loopback did not arrive"))?;
    socket::accept_now(&group[who])?;
    Ok(who)
}

fn show(group: &Group) -> io::Result<()> {
    let shown = sock_diag::group(group[0].local_addr()?)?;
    for listener in group {
        if !shown.contains_key(&socket::inode(listener)?) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "sock_diag does not show a listener of our own"));
        }
    }
    Ok(())
}
