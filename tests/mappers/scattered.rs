//! Requests whose parts lie in many places of a store.

use std::io;
use std::time::Duration;

use tests::backing::Backing;
use wasmblk::block::{Carrier, Ended, Op, Transfer};
use wasmblk::guest::Opened;
use wasmblk::sys::Blocking;

use crate::direct::{Prepared, Sent, Watch, run};

/// Counts transfers.
struct Counter {
    carrier: Blocking,
    begun: usize,
    under_way: usize,
    under_way_max: usize,
}

impl Carrier for Counter {
    fn begin(&mut self, token: u32, transfer: &Transfer) -> io::Result<()> {
        self.begun += 1;
        self.under_way += 1;
        self.under_way_max = self.under_way_max.max(self.under_way);
        self.carrier.begin(token, transfer)
    }

    fn wait(&mut self, timeout: Duration, ended: &mut dyn FnMut(u32, Ended)) -> io::Result<()> {
        let under_way = &mut self.under_way;
        self.carrier.wait(timeout, &mut |token, how| {
            *under_way -= 1;
            ended(token, how);
        })
    }
}

struct Nobody;

impl<C> Watch<C> for Nobody {
    fn answered(&mut self, _: usize, _: &Sent<'_>) {}
    fn waited(&mut self, _: &mut C) {}
}

impl Counter {
    /// Sends a request, which is done.
    fn send(&mut self, opened: &mut Opened, mut sent: Sent<'_>) {
        run(opened, self, std::slice::from_mut(&mut sent), &mut Nobody);
        assert_eq!(sent.result, Some(Ok(())));
    }
}

const CHUNK: u64 = 4096;

#[test]
fn zeros_in_many_places_are_written_some_at_a_time() {
    let (base, pool) = (
        Backing::in_memory("base", 16 << 20),
        Backing::in_memory("pool", 17 << 20),
    );
    for (name, options, grants) in [
        (
            "thin",
            &[("volume", "1"), ("size", "16M"), ("chunk", "4K")][..],
            vec![pool.grant("pool", "")],
        ),
        (
            "cow",
            &[("chunk", "4K"), ("format", "yes")],
            vec![base.grant("base", ":ro"), pool.grant("overlay", "")],
        ),
    ] {
        let prepared = Prepared::new(name, options, &grants);
        let prepared = prepared.unwrap_or_else(|why| panic!("{}", why.chain()));
        let opened = prepared.with_depth(64).open();
        let (mut opened, health) = opened.unwrap_or_else(|why| panic!("{}", why.chain()));
        let mut counter = Counter {
            carrier: Blocking::new(&opened.place).expect("threads"),
            begun: 0,
            under_way: 0,
            under_way_max: 0,
        };
        let trim = opened.geometry.trim.expect("it writes zeros");
        let chunks = u64::from(trim.max_write_zeroes_bytes) / CHUNK;
        assert!(chunks <= 1024, "{name}: {chunks} for one request");
        // No two that lie beside each other in the disk do so in the store.
        for chunk in (0..chunks).step_by(2).chain((1..chunks).step_by(2)) {
            let data = &mut [1; 512];
            counter.send(&mut opened, Sent::new(Op::Write, chunk * CHUNK, data));
        }
        (counter.begun, counter.under_way_max) = (0, 0);
        let mut zeros = Sent::new(Op::WriteZeroes, 0, &mut []);
        zeros.request.length = trim.max_write_zeroes_bytes;
        counter.send(&mut opened, zeros);
        let (begun, most) = (counter.begun, counter.under_way_max);
        assert!(begun as u64 >= chunks, "{name}: only {begun}");
        assert!(most <= 64, "{name}: {most} at a time");
        for chunk in 0..chunks {
            let data = &mut [1; 512];
            counter.send(&mut opened, Sent::new(Op::Read, chunk * CHUNK, data));
            assert_eq!(*data, [0; 512], "{name}: {chunk}");
        }
        assert!(!health.has_failed());
    }
}
