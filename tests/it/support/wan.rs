//! A delay line between two network namespaces, so that a handshake takes as long as over a continent. (The kernel has
//! tc netem for this, but not every kernel has that.)
//!
//! The namespaces have no name: they live as long as somebody holds their descriptor, or runs in them. In each is a TUN
//! device, and a thread here carries each packet from one to the other, later. Nothing outside of the two is changed.

mod trace;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::UnshareFlags;

use super::namespace::{in_fresh_thread, inside};
use trace::{Fate, Trace, Way};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The namespace is new, so that every port of it is free.
const PORT: u16 = 8080;
const MTU: usize = 1400;

/// What the line does to a packet.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub one_way: Duration,
    /// Of a thousand packets, so many are dropped.
    pub loss_per_mille: u64,
    /// Which ones they are.
    pub seed: u64,
}

/// Two network namespaces and the line between them; both are gone when this is dropped and their processes have ended.
pub struct Wan {
    server: File,
    client: File,
    trace: Arc<Mutex<Trace>>,
    /// Its end tells the carrier to stop.
    stop: Option<PipeWriter>,
    carrier: Option<JoinHandle<()>>,
}

impl Wan {
    /// A line that loses nothing.
    ///
    /// # Errors
    /// Says what is missing: the right to make a namespace, /dev/net/tun, `ip` of iproute2.
    pub fn new(one_way: Duration) -> Result<Wan, String> {
        Wan::with(Quality { one_way, loss_per_mille: 0, seed: 0 })
    }

    /// # Errors
    /// As [`Wan::new`].
    pub fn with(quality: Quality) -> Result<Wan, String> {
        let server = in_fresh_thread(|| Side::new(SERVER))?;
        let client = in_fresh_thread(|| Side::new(CLIENT))?;
        let (stopped, stop) = io::pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
        let trace = Arc::new(Mutex::new(Trace::begin()));
        let line = Line {
            devices: [server.device, client.device],
            quality,
            random: quality.seed,
            under_way: VecDeque::new(),
            trace: Arc::clone(&trace),
            stopped,
        };
        let carrier = thread::Builder::new().name("wan".into()).spawn(move || line.carry());
        let carrier = carrier.map_err(|error| format!("cannot start the thread of the line: {error}"))?;
        Ok(Wan { server: server.namespace, client: client.namespace, trace, stop: Some(stop), carrier: Some(carrier) })
    }

    /// Where the server is to listen; nobody else does.
    pub fn server_addr(&self) -> SocketAddr {
        SocketAddr::from((SERVER, PORT))
    }

    /// Runs it in a thread on the server's side: what it spawns is there too.
    pub fn server_side<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        inside(&self.server, act)
    }

    /// Runs it in a thread on the clients' side: what it spawns is there too.
    pub fn client_side<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        inside(&self.client, act)
    }

    /// Sets a value below /proc/sys on the server's side; `net/` there belongs to the namespace.
    ///
    /// # Errors
    /// What open(2) or write(2) says: an older kernel may not have it.
    pub fn set_sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        // Opened for writing only: std::fs::write would make a file where there is none.
        self.server_side(|| {
            OpenOptions::new().write(true).open(format!("/proc/sys/{name}"))?.write_all(value.as_bytes())
        })
    }

    /// All packets from and to this port of the client, as text, for the message of a test that fails.
    pub fn packets_of(&self, client_port: u16) -> String {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).of(client_port)
    }

    /// How many packets were carried, and how many were dropped.
    pub fn carried_and_dropped(&self) -> (usize, usize) {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).carried_and_dropped()
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

/// One end of the line.
struct Side {
    namespace: File,
    /// Is removed with its last descriptor.
    device: File,
}

impl Side {
    /// Takes the calling thread into a new namespace.
    fn new(address: Ipv4Addr) -> Result<Side, String> {
        unshare_network().map_err(|error| format!("cannot make a network namespace: {error}"))?;
        let namespace = File::open("/proc/thread-self/ns/net");
        let namespace = namespace.map_err(|error| format!("cannot hold a network namespace: {error}"))?;
        let device = open_tun("wan").map_err(|error| format!("cannot make a TUN device: {error}"))?;
        ip("link set lo up")?;
        ip(&format!("addr add {address}/24 dev wan"))?;
        ip(&format!("link set wan mtu {MTU} up"))?;
        Ok(Side { namespace, device })
    }
}

#[allow(unsafe_code, reason = "rustix has this only as unsafe, for flags that are not used here")]
fn unshare_network() -> io::Result<()> {
    // SAFETY: what is unsafe is CLONE_FILES, which could close descriptors that others hold; this is only CLONE_NEWNET.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// A device in the network namespace of the calling thread, whose packets are read from and written to the file.
#[allow(unsafe_code, reason = "nobody offers TUNSETIFF in safe code but whole crates for TUN")]
fn open_tun(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("two bits of sixteen");
    let request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: TUNSETIFF reads and writes one ifreq, which the pointer points to, and which nobody uses afterwards.
    match unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw const request) } {
        0 => Ok(tun),
        _ => Err(io::Error::last_os_error()),
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let done = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("cannot run `ip` of iproute2: {error}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("`ip {arguments}` failed: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

struct Packet {
    due: Instant,
    /// The device that it goes to.
    to: usize,
    bytes: Vec<u8>,
}

/// What the carrying thread has.
struct Line {
    /// The server's, the client's.
    devices: [File; 2],
    quality: Quality,
    random: u64,
    /// In the order of `due`, because all take the same time.
    under_way: VecDeque<Packet>,
    trace: Arc<Mutex<Trace>>,
    stopped: PipeReader,
}

impl Line {
    fn carry(mut self) {
        let mut buffer = [0; 2 * MTU];
        while self.wait() {
            for from in 0..self.devices.len() {
                while let Ok(length @ 1..) = self.devices[from].read(&mut buffer) {
                    self.take(from, &buffer[..length]);
                }
            }
            let now = Instant::now();
            let due = self.under_way.partition_point(|packet| packet.due <= now);
            for packet in self.under_way.drain(..due) {
                // A device that does not take it has lost it, as a network may.
                let _ = self.devices[packet.to].write(&packet.bytes);
            }
        }
    }

    /// Waits until a packet comes, or one is due. `false` when it is time to stop.
    fn wait(&self) -> bool {
        let [server, client] = &self.devices;
        let mut descriptors = [
            PollFd::new(&self.stopped, PollFlags::IN),
            PollFd::new(server, PollFlags::IN),
            PollFd::new(client, PollFlags::IN),
        ];
        let left = self.under_way.front().map(|packet| packet.due.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec::try_from(left).expect("a delay of less than centuries"));
        let _ = poll(&mut descriptors, left.as_ref());
        descriptors[0].revents().is_empty()
    }

    fn take(&mut self, from: usize, bytes: &[u8]) {
        let lost = self.next_random() % 1000 < self.quality.loss_per_mille;
        let (way, to) = if from == 0 { (Way::FromServer, 1) } else { (Way::FromClient, 0) };
        let fate = if lost { Fate::Lost } else { Fate::Carried };
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).note(way, fate, bytes);
        if !lost {
            let due = Instant::now() + self.quality.one_way;
            self.under_way.push_back(Packet { due, to, bytes: bytes.into() });
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): good for any seed, and the same everywhere.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
