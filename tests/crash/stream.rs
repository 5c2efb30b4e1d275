//! Requests that come as others are answered, so that several are always under way, in few places: what one
//! gives up, another takes while a third still reads it.

use std::time::{Duration, Instant};

use tests::PATIENCE;
use wasmblk::block::{Carrier, Op};
use wasmblk::guest::Opened;
use wasmblk::serve::Engine;
use wasmblk::stats::Stats;

use crate::direct::{Sent, Watch};

use super::oracle::{Oracle, READ_TIME};
use super::random::Random;
use super::rig::{Asked, Life, Rig};
use super::watcher::{Watcher, begin};

/// Requests of one stream.
const REQUESTS: u64 = 200;
const _: () = assert!(2 * REQUESTS < READ_TIME);
/// Moments at which the power may be cut, of which it is at one: many requests are to meet between two cuts.
const MOMENTS: u64 = 192;
/// One in so many streams is the last of a life.
const STREAMS_OF_LIFE: u64 = 3;
/// Sectors of a chunk.
const CHUNK: u64 = 8;
/// Chunks that half of the requests are about.
const HOT: u64 = 4;

impl Rig {
    /// Uses the guest by streams of requests, and cuts the power so many times.
    pub(super) fn cut_streams(&mut self, seed: u64, cuts: u32) {
        let mut random = Random(seed);
        let mut oracle = Oracle::new(self.sectors, self.first_stamp);
        let mut life = self.open(random.next());
        let mut done = 0;
        while done < cuts {
            self.choose_failing(&mut life, &mut random);
            let mut watcher = Watcher {
                rig: self,
                oracle: &mut oracle,
                random: &mut random,
                begun: Vec::new(),
                cuts: Some((&mut done, MOMENTS)),
            };
            stream(&mut life, &mut watcher);
            assert!(!life.health.has_failed(), "the guest has failed");
            if random.one_in(STREAMS_OF_LIFE) {
                life = self.next_life(&life, &mut oracle, &mut random);
                done += 1;
            }
        }
    }

    fn next_request(&mut self, random: &mut Random) -> Asked {
        let op = match random.below(20) {
            0..7 => Op::Write,
            7..12 => Op::Read,
            12..15 => Op::Discard,
            15..17 => Op::WriteZeroes,
            _ => Op::Flush,
        };
        let range = if random.one_in(3) {
            let sector = random.below(self.sectors);
            let longest = (3 * CHUNK).min(self.sectors - sector);
            (sector, 1 + random.below(longest))
        } else {
            let chunks = self.sectors / CHUNK;
            let among = if random.one_in(2) { chunks } else { HOT };
            (random.below(among) * CHUNK, CHUNK)
        };
        self.ask(op, range, random)
    }
}

/// Sends requests until there were enough, and waits for all answers.
fn stream(life: &mut Life, watcher: &mut Watcher<'_>) {
    let Opened {
        target,
        place,
        geometry,
    } = &mut life.opened;
    let slots = &place.slots;
    let stats = Stats::default();
    let mut engine = Engine::new(*geometry, &mut **target, slots.count(), &stats);
    let mut asked: Vec<Option<Asked>> = (0..slots.count()).map(|_| None).collect();
    watcher.begun.resize_with(asked.len(), || None);
    let (begin_at, mut left) = (Instant::now(), REQUESTS);
    loop {
        let has_time = begin_at.elapsed() < PATIENCE;
        assert!(has_time, "they have no answer");
        for slot in 0..slots.count() {
            let free = asked[slot as usize].is_none();
            if free && left > 0 && (!engine.is_busy() || watcher.random.one_in(2)) {
                left -= 1;
                let (request, data) = watcher.rig.next_request(watcher.random);
                slots.put(slot, 0, &data);
                let begun = begin(watcher.oracle, &request, &data);
                watcher.begun[slot as usize] = Some(begun);
                engine.begin(slot, request).expect("it fits");
                asked[slot as usize] = Some((request, data));
            }
        }
        let next = engine.poll(|slot, result| {
            let (request, mut data) = asked[slot as usize].take().expect("one answer");
            if result.is_ok() {
                slots.get(slot, 0, &mut data);
            }
            let mut sent = Sent::new(request.op, request.offset, &mut data);
            (sent.request, sent.result) = (request, Some(result.map(drop)));
            watcher.answered(slot as usize, &sent);
        });
        for (token, transfer) in engine.transfers() {
            life.carrier.begin(token, &transfer).expect("it begins");
        }
        if !engine.is_busy() {
            if left == 0 {
                return;
            }
            continue;
        }
        let wait = next.wait().unwrap_or(Duration::from_secs(5));
        let mut ended = |token, ended| engine.ended(token, ended);
        life.carrier.wait(wait, &mut ended).expect("it waits");
        watcher.waited(&mut life.carrier);
    }
}
