//! Who uses the devices in the bed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;

/// What is read and written at a time.
const BLOCK: usize = 4096;

/// A client waits so long after an error: one that does not is a burden by itself.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// Opens a disk past the system's cache.
fn open(disk: &Path, write: bool) -> Result<File> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let mut options = OpenOptions::new();
    let opened = options
        .read(true)
        .write(write)
        .custom_flags(direct)
        .open(disk);
    opened.with_context(|| disk.display().to_string())
}

/// Memory for one block, where direct I/O wants it.
struct Block {
    memory: Vec<u8>,
    begin: usize,
}

impl Block {
    fn new() -> Block {
        let memory = vec![0; 2 * BLOCK];
        let begin = memory.as_ptr().align_offset(BLOCK);
        Block { memory, begin }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..][..BLOCK]
    }

    /// What this version of a block of the disk is.
    fn fill(&mut self, number: usize, version: u64) {
        let stamp = (number as u64) << 32 | version;
        for (word, bytes) in (0..).zip(self.bytes().chunks_exact_mut(8)) {
            let word: u64 = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word;
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// What others see of a client.
#[derive(Debug, Default)]
struct Told {
    ends: AtomicBool,
    done: AtomicU64,
    longest_us: AtomicU64,
}

/// Writes blocks and reads them back, one at a time and without a pause, and looks at each byte.
#[derive(Debug)]
pub(super) struct Neighbour {
    told: Arc<Told>,
    thread: JoinHandle<Result<()>>,
}

impl Neighbour {
    pub(super) fn start(disk: &Path, blocks: usize) -> Result<Neighbour> {
        let told = Arc::new(Told::default());
        let (file, shared) = (open(disk, true)?, told.clone());
        let thread = thread::spawn(move || check(&file, blocks, &shared));
        Ok(Neighbour { told, thread })
    }

    /// Requests in a second, over some time, and the longest of them in milliseconds.
    pub(super) fn window(&self, time: Duration) -> Result<(f64, f64)> {
        let (begin, before) = (Instant::now(), self.told.done.load(Relaxed));
        self.told.longest_us.store(0, Relaxed);
        thread::sleep(time);
        let done = self.told.done.load(Relaxed) - before;
        let elapsed = begin.elapsed();
        if self.thread.is_finished() {
            bail!("the neighbour has ended");
        }
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let (done, longest) = (done as f64, self.told.longest_us.load(Relaxed) as f64);
        Ok((done / elapsed.as_secs_f64(), longest / 1e3))
    }

    /// Has it end, and look at all that it has written.
    pub(super) fn end(self) -> Result<()> {
        self.told.ends.store(true, Relaxed);
        match self.thread.join() {
            Ok(result) => result.context("the neighbour's data"),
            Err(_) => bail!("the neighbour panicked"),
        }
    }
}

fn check(disk: &File, blocks: usize, told: &Told) -> Result<()> {
    let (mut block, mut expected) = (Block::new(), Block::new());
    let mut versions = vec![0; blocks];
    for (number, version) in versions.iter().enumerate() {
        block.fill(number, *version);
        disk.write_all_at(block.bytes(), (number * BLOCK) as u64)?;
    }
    let mut read = |number: usize, version: u64| -> Result<Duration> {
        let begin = Instant::now();
        disk.read_exact_at(block.bytes(), (number * BLOCK) as u64)?;
        let took = begin.elapsed();
        expected.fill(number, version);
        if block.bytes() != expected.bytes() {
            bail!("block {number} is not what was written");
        }
        Ok(took)
    };
    let (mut random, mut out) = (88_172_645_463_325_252_u64, Block::new());
    while !told.ends.load(Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let number = usize::try_from(random >> 16)? % blocks;
        let took = if random % 4 == 0 {
            versions[number] += 1;
            out.fill(number, versions[number]);
            let begin = Instant::now();
            disk.write_all_at(out.bytes(), (number * BLOCK) as u64)?;
            begin.elapsed()
        } else {
            read(number, versions[number])?
        };
        told.done.fetch_add(1, Relaxed);
        let took = u64::try_from(took.as_micros())?;
        told.longest_us.fetch_max(took, Relaxed);
    }
    for (number, version) in versions.iter().enumerate() {
        read(number, *version)?;
    }
    Ok(())
}

/// Asks a hostile guest for reads, writes and flushes, one after the other.
pub(super) struct Client {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Asked>,
}

/// What came of that.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// When the first request was answered with an error.
    pub(super) failed: Option<Duration>,
    /// The longest request.
    pub(super) longest: Duration,
}

impl Client {
    pub(super) fn start(disk: &Path) -> Result<Client> {
        let file = open(disk, true).or_else(|_| open(disk, false))?;
        let ends = Arc::new(AtomicBool::new(false));
        let seen = ends.clone();
        let thread = thread::spawn(move || ask(&file, &seen));
        Ok(Client { ends, thread })
    }

    /// Has it send nothing more.
    pub(super) fn stop(&self) {
        self.ends.store(true, Relaxed);
    }

    /// Waits for its last request.
    pub(super) fn end(self) -> Result<Asked> {
        match self.thread.join() {
            Ok(asked) => Ok(asked),
            Err(_) => bail!("a client panicked"),
        }
    }
}

fn ask(disk: &File, ends: &AtomicBool) -> Asked {
    let (mut block, mut asked) = (Block::new(), Asked::default());
    let start = Instant::now();
    for turn in 0_u64.. {
        if ends.load(Relaxed) {
            break;
        }
        let at = turn / 3 * BLOCK as u64 % (1 << 20);
        let begin = Instant::now();
        let result = match turn % 3 {
            0 => disk.read_at(block.bytes(), at).map(drop),
            1 => disk.write_at(block.bytes(), at).map(drop),
            _ => disk.sync_data(),
        };
        asked.longest = asked.longest.max(begin.elapsed());
        if result.is_err() {
            asked.failed.get_or_insert_with(|| start.elapsed());
            thread::sleep(AFTER_ERROR);
        }
    }
    asked
}
