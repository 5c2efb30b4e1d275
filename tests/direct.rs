//! A guest without a frontend: requests go through the engine one at a time, as the frontends send them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tests::paths;
use wasmblk::block::{Backend, Carrier, Errno, Geometry, Op, Request};
use wasmblk::error::Result;
use wasmblk::guest::{
    Clock, Guest, Health, Limits, Opened, Opener, Source, Tags, compile, new_engine,
};
use wasmblk::serve::Engine;
use wasmblk::stats::Stats;
use wasmblk::store::{Grant, Stores};
use wasmblk::sys::Blocking;

/// An opened guest.
pub(crate) struct Direct {
    opened: Opened,
    carrier: Blocking,
    pub(crate) geometry: Geometry,
    pub(crate) health: Arc<Health>,
}

/// What guests in these tests may use: little, so that a limit is reached soon.
const LIMITS: Limits = Limits {
    memory_bytes: 64 << 20,
    deadline: Duration::from_millis(500),
};

impl Direct {
    /// Opens a guest from `guests/`.
    pub(crate) fn open(name: &str, options: &[(&str, &str)]) -> Result<Direct> {
        Direct::open_with(name, options, &[])
    }

    /// Opens a guest and grants it stores, as `--store` has them.
    pub(crate) fn open_with(
        name: &str,
        options: &[(&str, &str)],
        stores: &[String],
    ) -> Result<Direct> {
        let engine = new_engine()?;
        let source = Source::read(&paths::guest(name))?;
        let artefact = compile(&engine, &source, None)?;
        let stores = Arc::new(Stores::open(&Grant::parse_all(stores)?)?);
        let health = Arc::new(Health::default());
        let options: Vec<(String, String)> = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let opener = Opener {
            guest: Arc::new(Guest::load(&engine, &artefact, name, LIMITS, stores)?),
            clock: Clock::start(&engine)?,
            health: health.clone(),
            options: options.into(),
            tags: Tags {
                queues: 1,
                depth: 4,
            },
        };
        let opened = opener.open()?;
        let carrier = Blocking::new(&opened.place).expect("threads");
        Ok(Direct {
            geometry: opened.geometry,
            opened,
            carrier,
            health,
        })
    }

    /// Sends one request and waits for its answer. `data` goes there and comes back.
    fn request(
        &mut self,
        op: Op,
        offset: u64,
        data: &mut [u8],
        change: impl FnOnce(&mut Request),
    ) -> std::result::Result<(), Errno> {
        let mut request = Request {
            op,
            offset,
            length: u32::try_from(data.len()).expect("short"),
            fua: false,
            may_discard: false,
        };
        change(&mut request);
        let Opened { target, place, .. } = &mut self.opened;
        let (slots, carrier) = (&place.slots, &mut self.carrier);
        let stats = Stats::default();
        let mut engine = Engine::new(self.geometry, &mut **target, slots.count(), &stats);
        slots.put(1, 0, data);
        engine.begin(1, request)?;
        let (mut answer, begin) = (None, Instant::now());
        loop {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "it has no answer"
            );
            let next = engine.poll(|slot, result| {
                assert_eq!(slot, 1, "the request that was sent");
                answer = Some(result);
            });
            if answer.is_some() {
                break;
            }
            for (token, transfer) in engine.transfers() {
                carrier.begin(token, &transfer).expect("it begins");
            }
            let wait = next.wait().unwrap_or(Duration::from_secs(5));
            let mut ended = |token, ended| engine.ended(token, ended);
            carrier.wait(wait, &mut ended).expect("it waits");
        }
        let bytes = answer.expect("the loop's end")?;
        assert_eq!(bytes, request.length);
        slots.get(1, 0, data);
        Ok(())
    }
}

impl Backend for Direct {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> std::result::Result<(), Errno> {
        self.request(Op::Read, offset, data, |_| {})
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> std::result::Result<(), Errno> {
        let mut data = data.to_vec();
        self.request(Op::Write, offset, &mut data, |request| request.fua = fua)
    }

    fn flush(&mut self) -> std::result::Result<(), Errno> {
        self.request(Op::Flush, 0, &mut [], |_| {})
    }

    fn discard(&mut self, offset: u64, length: u32) -> std::result::Result<(), Errno> {
        self.request(Op::Discard, offset, &mut [], |request| {
            request.length = length;
        })
    }

    fn write_zeroes(
        &mut self,
        offset: u64,
        length: u32,
        may_discard: bool,
    ) -> std::result::Result<(), Errno> {
        self.request(Op::WriteZeroes, offset, &mut [], |request| {
            request.length = length;
            request.may_discard = may_discard;
        })
    }
}
