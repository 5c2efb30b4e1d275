//! Random requests through every contract and frontend make the same disk as a plain array.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::Disk;
use tests::uml::Machine;
use wasmblk::block::{Backend, Errno};
use wasmblk::nbd::wire::command::{FLAG_FUA, FLAG_NO_HOLE, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES};

use crate::direct::Direct;
use crate::nbd_server::{Framing, Raw, Server, flagged};

/// One step of a random use of a disk of 256 blocks of 512 bytes.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Read(u64, u64),
    Write(u64, u64, u8, bool),
    Discard(u64, u64),
    Zero(u64, u64, bool),
    Flush,
}

pub(crate) const BLOCKS: u64 = 256;

/// Guests of each contract that remember what is written; `file` does as well, in a store.
const CONTRACTS: [&str; 3] = ["memory", "memory-device", "memory-c"];

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let range = || (0..BLOCKS).prop_flat_map(|at| (Just(at), 1..=BLOCKS - at));
    prop_oneof![
        range().prop_map(|(at, blocks)| Step::Read(at, blocks)),
        (range(), any::<u8>(), any::<bool>())
            .prop_map(|((at, blocks), seed, fua)| Step::Write(at, blocks, seed, fua)),
        range().prop_map(|(at, blocks)| Step::Discard(at, blocks)),
        (range(), any::<bool>()).prop_map(|((at, blocks), may)| Step::Zero(at, blocks, may)),
        Just(Step::Flush),
    ]
}

/// Bytes of so many blocks.
pub(crate) fn size(blocks: u64) -> usize {
    usize::try_from(blocks * 512).expect("short")
}

/// Does one step on a disk and on the model; they must agree.
fn run(disk: &mut dyn Backend, model: &mut [u8], step: &Step) {
    let bytes = |at: u64, blocks: u64| size(at)..size(at + blocks);
    let length = |blocks: u64| u32::try_from(blocks * 512).expect("short");
    match *step {
        Step::Read(at, blocks) => {
            let mut data = vec![0xee; size(blocks)];
            disk.read(at * 512, &mut data).expect("read");
            assert!(data == model[bytes(at, blocks)], "{step:?}");
        }
        Step::Write(at, blocks, seed, fua) => {
            let pattern = (0..=248_u8).cycle().map(|n| seed.wrapping_add(n));
            for (byte, new) in model[bytes(at, blocks)].iter_mut().zip(pattern) {
                *byte = new;
            }
            disk.write(at * 512, &model[bytes(at, blocks)], fua)
                .expect("write");
        }
        Step::Discard(at, blocks) => {
            // These disks read discarded blocks as zeros.
            model[bytes(at, blocks)].fill(0);
            disk.discard(at * 512, length(blocks)).expect("discard");
        }
        Step::Zero(at, blocks, may_discard) => {
            model[bytes(at, blocks)].fill(0);
            disk.write_zeroes(at * 512, length(blocks), may_discard)
                .expect("write-zeroes");
        }
        Step::Flush => disk.flush().expect("flush"),
    }
}

/// Does all steps, and compares the whole disk at the end.
pub(crate) fn run_all(disk: &mut dyn Backend, steps: &[Step]) {
    let mut model = vec![0; size(BLOCKS)];
    disk.write_zeroes(0, 512 * 256, true).expect("all zeros");
    for step in steps {
        run(disk, &mut model, step);
    }
    run(disk, &mut model, &Step::Read(0, BLOCKS));
}

/// Streams of requests that are the same each time.
fn fixed_streams(count: usize) -> Vec<Vec<Step>> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    (0..count)
        .map(|_| {
            let tree = vec(step(), 1..60).new_tree(&mut runner);
            tree.expect("a stream").current()
        })
        .collect()
}

/// A block device of the kernel.
struct Node(File);

fn errno(error: &io::Error) -> Errno {
    panic!("the disk answered: {error}")
}

impl Backend for Node {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        // What is read comes from the guest, not from the kernel's cache.
        self.flush()?;
        fadvise(&self.0, 0, None, Advice::DontNeed).map_err(|why| errno(&why.into()))?;
        self.0
            .read_exact_at(data, offset)
            .map_err(|why| errno(&why))
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        self.0
            .write_all_at(data, offset)
            .map_err(|why| errno(&why))?;
        if fua { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.0.sync_data().map_err(|why| errno(&why))
    }

    fn discard(&mut self, offset: u64, length: u32) -> Result<(), Errno> {
        self.write_zeroes(offset, length, true)
    }

    fn write_zeroes(&mut self, offset: u64, length: u32, may_discard: bool) -> Result<(), Errno> {
        let how = if may_discard {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        fallocate(&self.0, how, offset, length.into()).map_err(|why| errno(&why.into()))
    }
}

/// A client of `wasmblk nbd`, with one request at a time.
struct Client(Raw);

impl Client {
    /// Sends one request with its data, and takes its reply, which must be success.
    fn ask(&mut self, flags: u16, command: u16, (offset, length): (u64, u32), data: &[u8]) {
        self.0.send(&flagged(flags, command, 7, offset, length));
        self.0.send(data);
        assert_eq!(self.0.simple_error(), 0);
    }
}

/// The length of data in a request.
fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("short")
}

impl Backend for Client {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.ask(0, READ, (offset, length(data)), &[]);
        data.copy_from_slice(&self.0.receive(data.len()));
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        let flags = if fua { FLAG_FUA } else { 0 };
        self.ask(flags, WRITE, (offset, length(data)), data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.ask(0, FLUSH, (0, 0), &[]);
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u32) -> Result<(), Errno> {
        self.ask(0, TRIM, (offset, length), &[]);
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, length: u32, may_discard: bool) -> Result<(), Errno> {
        let flags = if may_discard { 0 } else { FLAG_NO_HOLE };
        self.ask(flags, WRITE_ZEROES, (offset, length), &[]);
        Ok(())
    }
}

#[test]
fn over_nbd_every_contract_makes_the_same_disks() {
    for name in CONTRACTS {
        let server = Server::start(name, &["--set", "size=128K"]);
        let mut client = Client(Raw::ready(&server, Framing::Simple));
        for steps in fixed_streams(40) {
            run_all(&mut client, &steps);
        }
    }
    let backing = Backing::new("model", 128 << 10);
    let server = Server::start("file", &["--store", &backing.grant("data", "")]);
    let mut client = Client(Raw::ready(&server, Framing::Simple));
    for steps in fixed_streams(40) {
        run_all(&mut client, &steps);
    }
}

#[test]
fn over_ublk_every_contract_makes_the_same_disks() {
    in_bed(&Machine::default(), || {
        for name in CONTRACTS {
            let disk = Disk::add(name, &["--set", "size=128K"]);
            let open = || OpenOptions::new().read(true).write(true).open(&disk.path);
            for steps in fixed_streams(40) {
                let mut node = Node(open().expect("it opens"));
                run_all(&mut node, &steps);
            }
            disk.del();
        }
    });
}

proptest! {
    // Each case opens and compiles every guest.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn every_contract_makes_the_same_disks(steps in vec(step(), 1..60)) {
        for name in CONTRACTS {
            let mut disk = Direct::open(name, &[("size", "128K")]).expect("it opens");
            run_all(&mut disk, &steps);
        }
        let backing = Backing::new("model", 128 << 10);
        let grants = [backing.grant("data", "")];
        let mut disk = Direct::open_with("file", &[], &grants).expect("it opens");
        run_all(&mut disk, &steps);
    }
}
