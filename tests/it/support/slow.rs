//! A request whose response ends when the test decides: `/slow` of the server in `app.rs`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A request whose response has begun.
pub struct Slow {
    stream: TcpStream,
    pub generation: u32,
    read: Vec<u8>,
}

impl Slow {
    /// Sends the request, and returns when the response has begun.
    #[track_caller]
    pub fn begin(address: SocketAddr) -> Slow {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("set");
        let request = format!("GET /slow HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut read = Vec::new();
        let mut some = [0; 1024];
        loop {
            let text = String::from_utf8_lossy(&read);
            let generation = text.split("generation ").nth(1).and_then(|rest| rest.split_once('\n'));
            if let Some(generation) = generation.and_then(|(number, _)| number.parse().ok()) {
                return Slow { stream, generation, read };
            }
            let count = stream.read(&mut some).expect("an answer that begins");
            assert!(count > 0, "the answer ends before it has begun: {text}");
            read.extend_from_slice(&some[..count]);
        }
    }

    /// Sends requests until each of these generations answers at least one.
    #[track_caller]
    pub fn begin_on(address: SocketAddr, generations: &[u32]) -> Vec<Slow> {
        let mut all: Vec<Slow> = Vec::new();
        while !generations.iter().all(|wanted| all.iter().any(|slow| slow.generation == *wanted)) {
            assert!(all.len() < 200, "none of 200 connections came to one of {generations:?}");
            all.push(Slow::begin(address));
        }
        all
    }

    /// Reads the rest of the response, which must be complete.
    #[track_caller]
    pub fn finish(mut self) {
        let cut = self.stream.read_to_end(&mut self.read).err();
        let text = String::from_utf8_lossy(&self.read);
        let is_whole = text.ends_with("whole\n\r\n0\r\n\r\n");
        assert!(cut.is_none() && is_whole, "cut by {cut:?} on generation {}: {text}", self.generation);
    }
}
