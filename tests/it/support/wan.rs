//! A delay line between two network namespaces, so that a handshake takes as long as across a continent. (tc netem does
//! the same, but not every kernel has it.)
//!
//! The namespaces have no name: a namespace lives as long as a process holds its descriptor or runs in it. Each
//! namespace has a TUN device, and a thread forwards each packet from one device to the other after a delay. Nothing
//! outside of the two namespaces is changed.

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
/// The server's port. Every port is free, because the namespace is new.
const PORT: u16 = 8080;
const MTU: usize = 1400;

/// The delay and the loss of packets on the line.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub one_way: Duration,
    /// The number of packets in a thousand that are dropped, on average.
    pub loss_per_mille: u64,
    /// The seed of the random numbers that choose the dropped packets.
    pub seed: u64,
}

/// Two network namespaces and the line between them. The namespaces end when this is dropped and their processes have
/// ended.
pub struct Wan {
    server: File,
    client: File,
    trace: Arc<Mutex<Trace>>,
    /// The write end of a pipe. The carrier stops when this end is closed.
    stop: Option<PipeWriter>,
    carrier: Option<JoinHandle<()>>,
}

impl Wan {
    /// A line without packet loss.
    ///
    /// # Errors
    /// The missing part: the right to make a namespace, /dev/net/tun, or `ip` of iproute2.
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

    /// The address for the server. No other process listens there.
    pub fn server_addr(&self) -> SocketAddr {
        SocketAddr::from((SERVER, PORT))
    }

    /// Runs `act` in a thread in the server's namespace. The processes and threads that `act` starts are there too.
    pub fn server_side<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        inside(&self.server, act)
    }

    /// Runs `act` in a thread in the clients' namespace. The processes and threads that `act` starts are there too.
    pub fn client_side<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        inside(&self.client, act)
    }

    /// Sets a value below /proc/sys in the server's namespace. Each network namespace has its own `net/`.
    ///
    /// # Errors
    /// The error of open(2) or write(2). An older kernel may not have the value.
    pub fn set_sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        // The open has no O_CREAT, because std::fs::write would make a file where there is none.
        self.server_side(|| {
            OpenOptions::new().write(true).open(format!("/proc/sys/{name}"))?.write_all(value.as_bytes())
        })
    }

    /// All packets from and to this port of the client, as text for the failure message of a test.
    pub fn packets_of(&self, client_port: u16) -> String {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).of(client_port)
    }

    /// The number of packets that were carried, and of those that were dropped.
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
    /// The TUN device, which the kernel removes with its last descriptor.
    device: File,
}

impl Side {
    /// Moves the calling thread into a new network namespace, and sets up a TUN device there.
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
    // SAFETY: only CLONE_FILES is unsafe, because it could close descriptors that other threads use. The flag here is
    // CLONE_NEWNET.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Makes a TUN device in the network namespace of the calling thread. The file reads and writes the packets of the
/// device.
#[allow(unsafe_code, reason = "nobody offers TUNSETIFF in safe code but whole crates for TUN")]
fn open_tun(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("two bits of sixteen");
    let request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: TUNSETIFF reads and writes one ifreq. The pointer points to an ifreq that is not used afterwards.
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
    /// The index of the device to which the packet goes.
    to: usize,
    bytes: Vec<u8>,
}

/// The state of the carrier thread.
struct Line {
    /// The TUN devices of the server and of the client, in this order.
    devices: [File; 2],
    quality: Quality,
    random: u64,
    /// The packets in flight, ordered by `due`, because all have the same delay.
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
                // A failed write loses the packet, as a network may.
                let _ = self.devices[packet.to].write(&packet.bytes);
            }
        }
    }

    /// Waits until a packet comes or is due. Returns false when the thread must stop.
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

    /// SplitMix64 (Steele, Lea, Flood 2014) works with any seed, and gives the same sequence on every machine.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
