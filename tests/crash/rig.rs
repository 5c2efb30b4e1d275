//! Runs a guest over stores whose power is cut.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tests::PATIENCE;
use tests::backing::Backing;
use wasmblk::block::{Errno, Op, Request};
use wasmblk::guest::{Health, Opened};

use crate::direct::{Prepared, Sent, run};

use super::LEG_DATA;
use super::carrier::Power;
use super::medium::Medium;
use super::oracle::{Oracle, fill};
use super::random::Random;
use super::watcher::{Blind, Cuts, Watcher, begin};

/// A guest, and what it is tested with.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) options: &'static [(&'static str, &'static str)],
    /// Names and sizes.
    pub(super) stores: &'static [(&'static str, u64)],
    pub(super) size_bytes: u64,
    /// What all sectors are at first.
    pub(super) first_stamp: u64,
    /// Its stores are the legs of a mirror.
    pub(super) legs: usize,
}

/// The guest with its stores.
pub(super) struct Rig {
    prepared: Prepared,
    pub(super) files: Vec<Backing>,
    pub(super) sectors: u64,
    pub(super) first_stamp: u64,
    stamps: u64,
    pub(super) legs: usize,
    /// Now and then one of the stores fails.
    pub(super) stores_fail: bool,
}

/// A request that is to be sent, and its data.
pub(super) type Asked = (Request, Vec<u8>);

/// One life of the guest, from when it opens to when the power is cut.
pub(super) struct Life {
    pub(super) opened: Opened,
    pub(super) carrier: Power,
    pub(super) health: Arc<Health>,
}

/// Requests that a guest has at a time, where several are always under way.
const DEPTH: u16 = 8;
/// Requests that are sent at a time.
const BATCH_MAX: u64 = 3;
/// Moments at which the power may be cut, of which it is at one.
const MOMENTS: u64 = 12;
/// Lives follow one another, as each batch is the last of one so often.
const BATCHES_OF_LIFE: u64 = 30;

impl Life {
    /// Cuts the power: what is left is in the files.
    pub(super) fn cut(&self, random: &mut Random) {
        put(&self.carrier, random);
    }
}

/// Sends requests at a time, and waits until all are answered.
pub(super) fn send(life: &mut Life, watcher: &mut Watcher<'_>, asked: &mut [Asked]) {
    let mut sent = Vec::new();
    watcher.begun.clear();
    for (request, data) in asked {
        watcher
            .begun
            .push(Some(begin(watcher.oracle, request, data)));
        let mut one = Sent::new(request.op, request.offset, data);
        one.request = *request;
        sent.push(one);
    }
    run(&mut life.opened, &mut life.carrier, &mut sent, watcher);
    assert!(!life.health.has_failed(), "the guest has failed");
}

/// Makes the files what a power cut may leave.
fn put(carrier: &Power, random: &mut Random) {
    for (medium, image) in carrier.media.iter().zip(carrier.cut(random)) {
        medium.put(&image);
    }
}

impl Rig {
    pub(super) fn new(case: &Case) -> Rig {
        let made = case.stores.iter().map(|(name, bytes)| {
            let backing = Backing::in_memory(name, *bytes);
            let grant = backing.grant(name, "");
            (backing, grant)
        });
        let (files, grants): (Vec<Backing>, Vec<String>) = made.unzip();
        let prepared = Prepared::new(case.name, case.options, &grants);
        Rig {
            prepared: prepared
                .unwrap_or_else(|why| panic!("{}", why.chain()))
                .with_depth(DEPTH),
            files,
            sectors: case.size_bytes / 512,
            first_stamp: case.first_stamp,
            stamps: case.first_stamp,
            legs: case.legs,
            stores_fail: false,
        }
    }

    pub(super) fn open(&self, seed: u64) -> Life {
        let opened = self.prepared.open();
        let (opened, health) = opened.unwrap_or_else(|why| panic!("{}", why.chain()));
        assert_eq!(opened.geometry.size_bytes, self.sectors * 512);
        let media = self.files.iter().map(Medium::new).collect();
        Life {
            carrier: Power::new(opened.place.clone(), media, seed),
            opened,
            health,
        }
    }

    /// Uses the guest, and cuts the power so many times, at random moments and behind flushes.
    pub(super) fn cut_at_random(&mut self, seed: u64, cuts: u32) {
        let mut random = Random(seed);
        let mut oracle = Oracle::new(self.sectors, self.first_stamp);
        let mut life = self.open(random.next());
        let mut done = 0;
        while done < cuts {
            let cuts = Some((&mut done, MOMENTS));
            let flushed = self.batch(&mut life, &mut oracle, &mut random, cuts);
            self.choose_failing(&mut life, &mut random);
            if flushed {
                self.check_cut(&life.carrier, &oracle, &mut random);
                done += 1;
            }
            if random.one_in(BATCHES_OF_LIFE) {
                life = self.next_life(&life, &mut oracle, &mut random);
                done += 1;
            }
        }
    }

    /// Has one store fail now and then, where they are to, or none.
    pub(super) fn choose_failing(&self, life: &mut Life, random: &mut Random) {
        if !self.stores_fail {
            return;
        }
        let failing = random.index(self.files.len());
        for (place, medium) in life.carrier.media.iter_mut().enumerate() {
            let fails = place == failing && random.one_in(3);
            medium.fails = if fails { 1 + random.below(3) } else { 0 };
        }
    }

    /// Cuts the power, and opens the guest with what is left.
    pub(super) fn next_life(&self, life: &Life, oracle: &mut Oracle, random: &mut Random) -> Life {
        life.cut(random);
        let mut life = self.open(random.next());
        self.look(&mut life, oracle);
        if self.legs > 0 && self.stores_fail {
            // Until then, what was not flushed may be on one leg only, and go with it.
            self.wait_until_equal(&mut life);
            self.flush(&mut life).expect("flush");
        }
        life
    }

    /// Sends some requests at a time. Says whether one made something durable.
    pub(super) fn batch(
        &mut self,
        life: &mut Life,
        oracle: &mut Oracle,
        random: &mut Random,
        cuts: Cuts<'_>,
    ) -> bool {
        let count = 1 + random.below(BATCH_MAX);
        let mut asked: Vec<Asked> = (0..count).map(|_| self.request(random)).collect();
        let durable = |(request, _): &Asked| request.op == Op::Flush || request.fua;
        let flushed = asked.iter().any(durable);
        let mut watcher = Watcher {
            rig: self,
            oracle,
            random,
            begun: Vec::new(),
            cuts,
        };
        send(life, &mut watcher, &mut asked);
        flushed
    }

    fn request(&mut self, random: &mut Random) -> Asked {
        let op = match random.below(20) {
            0..11 => Op::Write,
            11..14 => Op::Flush,
            14..16 => Op::Discard,
            16..18 => Op::WriteZeroes,
            _ => Op::Read,
        };
        let longest = if random.one_in(6) { self.sectors } else { 24 };
        let sector = random.below(self.sectors);
        let count = 1 + random.below(longest.min(self.sectors - sector));
        self.ask(op, (sector, count), random)
    }

    /// A request for so many sectors from one on, with its data.
    pub(super) fn ask(
        &mut self,
        op: Op,
        (sector, count): (u64, u64),
        random: &mut Random,
    ) -> Asked {
        let bytes = usize::try_from(count * 512).expect("short");
        let mut request = Request {
            op,
            offset: sector * 512,
            length: u32::try_from(bytes).expect("short"),
            fua: op == Op::Write && random.one_in(6),
            may_discard: op == Op::WriteZeroes && random.one_in(2),
        };
        let mut data = vec![];
        match op {
            Op::Write => {
                self.stamps += 1;
                data.resize(bytes, 0);
                fill(&mut data, sector, self.stamps);
            }
            Op::Read => data.resize(bytes, 0xee),
            Op::Flush => (request.offset, request.length) = (0, 0),
            Op::Discard | Op::WriteZeroes => {}
        }
        (request, data)
    }

    /// Reads everything: twice the same, and nothing that cannot be.
    pub(super) fn look(&self, life: &mut Life, oracle: &mut Oracle) {
        let content = self.content(life);
        oracle.after_cut(&content);
        assert!(
            content == self.content(life),
            "it reads otherwise the second time"
        );
    }

    pub(super) fn content(&self, life: &mut Life) -> Vec<u8> {
        let mut data = vec![0xee; usize::try_from(self.sectors * 512).expect("short")];
        let mut sent = [Sent::new(Op::Read, 0, &mut data)];
        run(&mut life.opened, &mut life.carrier, &mut sent, &mut Blind);
        assert_eq!(sent[0].result, Some(Ok(())));
        data
    }

    /// Writes; with `fua`, what is durable when it is answered.
    pub(super) fn write(&self, life: &mut Life, (offset, fua): (u64, bool), data: &mut [u8]) {
        let mut sent = Sent::new(Op::Write, offset, data);
        sent.request.fua = fua;
        let mut sent = [sent];
        run(&mut life.opened, &mut life.carrier, &mut sent, &mut Blind);
        assert_eq!(sent[0].result, Some(Ok(())));
    }

    pub(super) fn flush(&self, life: &mut Life) -> Result<(), Errno> {
        let mut sent = [Sent::new(Op::Flush, 0, &mut [])];
        run(&mut life.opened, &mut life.carrier, &mut sent, &mut Blind);
        sent[0].result.expect("it is answered")
    }

    /// Reads now and then, until all legs of a mirror have the same.
    pub(super) fn wait_until_equal(&self, life: &mut Life) {
        let begin = Instant::now();
        let data = |medium: &Medium| medium.content().split_off(LEG_DATA);
        loop {
            self.content(life);
            let mut legs = life.carrier.media.iter().map(data);
            let first = legs.next();
            if legs.all(|leg| Some(leg) == first) && self.all_are_in(life) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "the legs stay different");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the newest record of the first leg says so of all.
    fn all_are_in(&self, life: &Life) -> bool {
        let content = life.carrier.media[0].content();
        let generation = |record: &&[u8]| record[16..24].iter().rev().copied().collect::<Vec<u8>>();
        let newest = content[..8192].chunks(4096).max_by_key(generation);
        newest.is_some_and(|record| record[52..52 + self.legs].iter().all(|state| *state == 0))
    }

    /// Cuts the power of a life as it is now, uses what is left, and lets the life go on as if nothing had been.
    pub(super) fn check_cut(&mut self, carrier: &Power, oracle: &Oracle, random: &mut Random) {
        let before: Vec<Vec<u8>> = carrier.media.iter().map(Medium::content).collect();
        put(carrier, random);
        let mut oracle = oracle.clone();
        let mut life = self.open(random.next());
        self.look(&mut life, &mut oracle);
        for _ in 0..2 {
            self.batch(&mut life, &mut oracle, random, None);
        }
        if self.legs > 0 && random.one_in(32) {
            self.wait_until_equal(&mut life);
            self.look(&mut life, &mut oracle);
        }
        drop(life);
        for (medium, content) in carrier.media.iter().zip(before) {
            medium.put(&content);
        }
    }
}
