//! A client that batches: it sends all requests that may go in one system call, and takes all replies that
//! are there in one. One thread drives all its connections.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What is asked, again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) write: bool,
    pub(crate) random: bool,
    pub(crate) bytes: u32,
    /// Requests in flight on each connection.
    pub(crate) depth: usize,
    pub(crate) connections: usize,
    /// Requests that fio sends and takes together; 1 leaves it to fio. Our own client always does.
    pub(crate) batch: usize,
    /// The part of the device that is used, in bytes.
    pub(crate) span: u64,
}

impl Load {
    /// What is done, as fio names it.
    pub(crate) fn what(&self) -> &'static str {
        match (self.random, self.write) {
            (true, false) => "randread",
            (true, true) => "randwrite",
            (false, false) => "read",
            (false, true) => "write",
        }
    }
}

/// How long a reply may take.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Runs a load for some time; gives requests per second.
pub(crate) fn run(socket: &Path, load: &Load, time: Duration) -> Result<f64> {
    let payload = vec![0x5a; load.bytes as usize];
    let mut clients = Vec::new();
    for seed in 0..load.connections {
        clients.push(Client::connect(socket, seed as u64)?);
    }
    let begin = Instant::now();
    let (mut done, mut elapsed) = (0, Duration::ZERO);
    // At the end what is under way is waited for, so that no server is left in the middle of a message.
    while clients.iter().any(|client| client.in_flight > 0) || elapsed < time {
        let mut waits = Vec::with_capacity(clients.len());
        for client in &mut clients {
            if elapsed < time {
                client.fill(load);
            }
            client.send(load, &payload)?;
        }
        for client in &clients {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, !client.sending.is_empty());
            waits.push(PollFd::new(&client.socket, flags));
        }
        let ready = poll(&mut waits, Some(&PATIENCE))?;
        ensure!(ready > 0, "the server does not answer");
        let ready: Vec<bool> = (waits.iter())
            .map(|wait| wait.revents().contains(PollFlags::IN))
            .collect();
        for (client, _) in clients.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            done += client.receive()?;
        }
        elapsed = begin.elapsed();
    }
    for client in &mut clients {
        client.disconnect();
    }
    Ok(f64::from(done) / elapsed.as_secs_f64())
}

struct Client {
    socket: UnixStream,
    random: u64,
    next: u64,
    in_flight: usize,
    /// Requests that are not sent as a whole, and the bytes of the first that are.
    sending: VecDeque<[u8; 28]>,
    sent: usize,
    input: Vec<u8>,
    begin: usize,
    end: usize,
    /// Bytes of data that are still to come and nobody looks at.
    skip: usize,
}

impl Client {
    fn connect(path: &Path, seed: u64) -> Result<Client> {
        let mut socket = UnixStream::connect(path)?;
        handshake(&mut socket)?;
        socket.set_nonblocking(true)?;
        Ok(Client {
            socket,
            random: 0x9e37_79b9_7f4a_7c15 ^ (seed + 1) << 17,
            next: 0,
            in_flight: 0,
            sending: VecDeque::new(),
            sent: 0,
            input: vec![0; 512 << 10],
            begin: 0,
            end: 0,
            skip: 0,
        })
    }

    fn disconnect(&mut self) {
        let mut header = [0; 28];
        header[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
        header[7] = 2;
        // Who is gone already need not be told.
        let _ = self.socket.write_all(&header);
    }

    fn offset(&mut self, load: &Load) -> u64 {
        let blocks = load.span / u64::from(load.bytes);
        if load.random {
            // Xorshift: cheap, and the same for everybody.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % blocks * u64::from(load.bytes)
        } else {
            self.next += 1;
            self.next % blocks * u64::from(load.bytes)
        }
    }

    fn fill(&mut self, load: &Load) {
        while self.in_flight < load.depth {
            let offset = self.offset(load);
            let mut header = [0; 28];
            header[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
            header[7] = load.write.into();
            header[16..24].copy_from_slice(&offset.to_be_bytes());
            header[24..].copy_from_slice(&load.bytes.to_be_bytes());
            self.sending.push_back(header);
            self.in_flight += 1;
        }
    }

    fn send(&mut self, load: &Load, payload: &[u8]) -> Result<()> {
        let whole = 28 + if load.write { payload.len() } else { 0 };
        while !self.sending.is_empty() {
            let mut pieces = Vec::with_capacity(2 * self.sending.len());
            for header in &self.sending {
                pieces.push(IoSlice::new(header));
                if load.write {
                    pieces.push(IoSlice::new(payload));
                }
            }
            let mut rest = &mut pieces[..];
            IoSlice::advance_slices(&mut rest, self.sent);
            let some = rest.len().min(1024);
            match self.socket.write_vectored(&rest[..some]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            while self.sent >= whole {
                self.sent -= whole;
                self.sending.pop_front();
            }
        }
        Ok(())
    }

    /// Takes the replies that are there; gives their number.
    fn receive(&mut self) -> Result<u32> {
        self.input.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        match self.socket.read(&mut self.input[self.end..]) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(bytes) => self.end += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error.into()),
        }
        let mut done = 0;
        loop {
            let skipped = self.skip.min(self.end - self.begin);
            self.begin += skipped;
            self.skip -= skipped;
            let head = &self.input[self.begin..self.end];
            // A simple reply has 16 bytes, a chunk's header 20.
            if head.len() < 16 || head.len() < 20 && head[0] == 0x66 {
                return Ok(done);
            }
            let number = |at: usize| {
                u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            let last = match number(0) {
                // A chunk: an error, or data.
                0x668e_33ef => {
                    ensure!(head[6] & 0x80 == 0, "the server answered with an error");
                    let last = head[5] & 1 == 1;
                    self.skip = number(16) as usize;
                    self.begin += 20;
                    last
                }
                // A simple reply, which a request without data may have.
                0x6744_6698 => {
                    ensure!(number(4) == 0, "the server answered with an error");
                    self.begin += 16;
                    true
                }
                other => bail!("the server sent {other:#x}"),
            };
            if last {
                self.in_flight -= 1;
                done += 1;
            }
        }
    }
}

/// Fixed newstyle with structured replies, as libnbd and QEMU do it.
fn handshake(socket: &mut UnixStream) -> Result<()> {
    socket.read_exact(&mut [0; 18])?;
    socket.write_all(&[0, 0, 0, 3])?;
    socket.write_all(b"IHAVEOPT\0\0\0\x08\0\0\0\0")?;
    replies(socket)?;
    socket.write_all(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0")?;
    replies(socket)
}

/// The replies to one option, up to the last.
fn replies(socket: &mut UnixStream) -> Result<()> {
    loop {
        let mut header = [0; 20];
        socket.read_exact(&mut header)?;
        let [.., k0, k1, k2, k3, l0, l1, l2, l3] = header;
        let mut data = vec![0; u32::from_be_bytes([l0, l1, l2, l3]) as usize];
        socket.read_exact(&mut data)?;
        match u32::from_be_bytes([k0, k1, k2, k3]) {
            1 => return Ok(()),
            kind if kind >= 1 << 31 => bail!("the server refused an option"),
            _ => {}
        }
    }
}
