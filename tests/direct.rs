//! A guest without a frontend: requests go through the engine one at a time, as the frontends send them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tests::PATIENCE;
use tests::paths;
use wasmblk::block::{Backend, Carrier, Errno, Geometry, Op, Request};
use wasmblk::error::Result;
use wasmblk::guest::{
    Clock, Directories, Directory, Granted, Guest, Health, Limits, Opened, Opener, Source, Tags,
    compile_here, new_engine,
};
use wasmblk::serve::Engine;
use wasmblk::stats::Stats;
use wasmblk::store::{Grant, Stores};
use wasmblk::sys::{Artefact, Blocking};
use wasmtime::Engine as Wasmtime;

/// A guest that is compiled, with its stores: it can be opened many times.
pub(crate) struct Prepared(Opener);

/// An opened guest.
pub(crate) struct Direct {
    opened: Opened,
    carrier: Blocking,
    pub(crate) geometry: Geometry,
    pub(crate) guest: Arc<Guest>,
    pub(crate) health: Arc<Health>,
    /// Behind all that uses them.
    _closed: Closed,
}

/// Stores that are closed when this is dropped: threads may have them for a moment longer than who started them.
struct Closed(Arc<Stores>);

impl Drop for Closed {
    fn drop(&mut self) {
        let begin = Instant::now();
        while Arc::strong_count(&self.0) > 1 && begin.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

/// What guests in these tests may use: little memory, so that it is used up soon. No call reaches this deadline, not
/// even where the machine stands still for a moment: see [`SHORT_DEADLINE`].
pub(crate) fn limits() -> Limits {
    Limits {
        memory_bytes: 64 << 20,
        deadline: Duration::from_secs(30),
        ..Limits::default()
    }
}

/// For guests that are to reach it.
pub(crate) const SHORT_DEADLINE: Duration = Duration::from_millis(500);

/// [`limits`], for guests that are to reach their deadline.
pub(crate) fn hurried() -> Limits {
    Limits {
        deadline: SHORT_DEADLINE,
        ..limits()
    }
}

/// What all guests in these tests share.
struct Common {
    engine: Wasmtime,
    clock: Clock,
    compiled: Mutex<HashMap<String, Arc<Artefact>>>,
}

static COMMON: LazyLock<Common> = LazyLock::new(|| {
    let engine = new_engine().expect("an engine");
    Common {
        clock: Clock::start(&engine).expect("a clock"),
        engine,
        compiled: Mutex::default(),
    }
});

impl Common {
    /// A guest's machine code, made once.
    fn compiled(&self, name: &str) -> Result<Arc<Artefact>> {
        let mut all = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(artefact) = all.get(name) {
            return Ok(artefact.clone());
        }
        let source = Source::read(&paths::guest(name))?;
        let artefact = Arc::new(compile_here(&self.engine, &source)?);
        all.insert(name.to_owned(), artefact.clone());
        Ok(artefact)
    }
}

impl Prepared {
    /// Compiles a guest from `guests/`, and opens the stores that it is granted, as `--store` has them.
    pub(crate) fn new(name: &str, options: &[(&str, &str)], stores: &[String]) -> Result<Prepared> {
        Prepared::limited(name, options, stores, limits())
    }

    /// The same with other limits.
    pub(crate) fn limited(
        name: &str,
        options: &[(&str, &str)],
        stores: &[String],
        limits: Limits,
    ) -> Result<Prepared> {
        let artefact = COMMON.compiled(name)?;
        Prepared::of(&artefact, options, stores, limits)
    }

    /// Compiles a guest from a file.
    pub(crate) fn of_file(path: &str, limits: Limits) -> Result<Prepared> {
        Prepared::with_stores(path, &[], limits)
    }

    /// The same, of a guest that is granted stores, as `--store` has them.
    pub(crate) fn with_stores(path: &str, stores: &[String], limits: Limits) -> Result<Prepared> {
        let artefact = compile_here(&COMMON.engine, &Source::read(Path::new(path))?)?;
        Prepared::of(&artefact, &[], stores, limits)
    }

    /// The same, of a guest that is granted directories, as `--dir` has them.
    pub(crate) fn with_directories(
        path: &str,
        directories: &[String],
        limits: Limits,
    ) -> Result<Prepared> {
        let artefact = compile_here(&COMMON.engine, &Source::read(Path::new(path))?)?;
        let directories = Directories::open(&Directory::parse_all(directories)?)?;
        let granted = Granted {
            directories: Arc::new(directories),
            ..Granted::default()
        };
        Prepared::granted(&artefact, &[], granted, limits)
    }

    /// Loads one that is compiled.
    pub(crate) fn of(
        artefact: &Artefact,
        options: &[(&str, &str)],
        stores: &[String],
        limits: Limits,
    ) -> Result<Prepared> {
        let granted = Granted {
            stores: Arc::new(Stores::open(&Grant::parse_all(stores)?)?),
            ..Granted::default()
        };
        Prepared::granted(artefact, options, granted, limits)
    }

    fn granted(
        artefact: &Artefact,
        options: &[(&str, &str)],
        granted: Granted,
        limits: Limits,
    ) -> Result<Prepared> {
        let Common { engine, clock, .. } = &*COMMON;
        let options: Vec<(String, String)> = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Ok(Prepared(Opener {
            guest: Arc::new(Guest::load(engine, artefact, "tried", limits, granted)?),
            clock: clock.clone(),
            health: Arc::default(),
            options: options.into(),
            tags: Tags {
                queues: 1,
                depth: 4,
            },
        }))
    }

    /// The same, for so many requests at a time.
    pub(crate) fn with_depth(mut self, depth: u16) -> Prepared {
        self.0.tags.depth = depth;
        self
    }

    /// Makes an instance.
    pub(crate) fn open(&self) -> Result<(Opened, Arc<Health>)> {
        let health = Arc::new(Health::default());
        let opener = Opener {
            health: health.clone(),
            ..self.0.clone()
        };
        Ok((opener.open()?, health))
    }

    /// What is opened.
    pub(crate) fn guest(&self) -> &Guest {
        &self.0.guest
    }

    /// Makes an instance, with what carries out its transfers.
    pub(crate) fn direct(&self) -> Result<Direct> {
        let (opened, health) = self.open()?;
        Ok(Direct {
            _closed: Closed(opened.place.stores.clone()),
            carrier: Blocking::new(&opened.place).expect("threads"),
            geometry: opened.geometry,
            guest: self.0.guest.clone(),
            opened,
            health,
        })
    }
}

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
        Direct::open_limited(name, options, stores, limits())
    }

    /// The same with other limits.
    pub(crate) fn open_limited(
        name: &str,
        options: &[(&str, &str)],
        stores: &[String],
        limits: Limits,
    ) -> Result<Direct> {
        Prepared::limited(name, options, stores, limits)?.direct()
    }

    /// Sends one request and waits for its answer. `data` goes there and comes back.
    fn request(
        &mut self,
        op: Op,
        offset: u64,
        data: &mut [u8],
        change: impl FnOnce(&mut Request),
    ) -> std::result::Result<(), Errno> {
        let mut sent = Sent::new(op, offset, data);
        change(&mut sent.request);
        run(
            &mut self.opened,
            &mut self.carrier,
            std::slice::from_mut(&mut sent),
            &mut Nobody,
        );
        sent.result.expect("it is answered")
    }
}

/// A request that is sent, and its answer.
pub(crate) struct Sent<'a> {
    pub(crate) request: Request,
    /// Goes there and comes back.
    pub(crate) data: &'a mut [u8],
    pub(crate) result: Option<std::result::Result<(), Errno>>,
}

impl Sent<'_> {
    /// One of the length of `data`.
    pub(crate) fn new(op: Op, offset: u64, data: &mut [u8]) -> Sent<'_> {
        Sent {
            request: Request {
                op,
                offset,
                length: u32::try_from(data.len()).expect("short"),
                fua: false,
                may_discard: false,
            },
            data,
            result: None,
        }
    }
}

/// Who looks on while requests are carried out.
pub(crate) trait Watch<C> {
    /// A request is answered.
    fn answered(&mut self, slot: usize, sent: &Sent<'_>);
    /// Transfers were begun or have ended.
    fn waited(&mut self, carrier: &mut C);
}

struct Nobody;

impl<C> Watch<C> for Nobody {
    fn answered(&mut self, _: usize, _: &Sent<'_>) {}
    fn waited(&mut self, _: &mut C) {}
}

/// Sends requests, at most 4 at a time, and waits until all are answered.
pub(crate) fn run<C: Carrier>(
    opened: &mut Opened,
    carrier: &mut C,
    sent: &mut [Sent<'_>],
    watch: &mut dyn Watch<C>,
) {
    let Opened {
        target,
        place,
        geometry,
    } = opened;
    let slots = &place.slots;
    let stats = Stats::default();
    let mut engine = Engine::new(*geometry, &mut **target, slots.count(), &stats);
    for (slot, one) in (0..).zip(&mut *sent) {
        slots.put(slot, 0, one.data);
        if let Err(errno) = engine.begin(slot, one.request) {
            one.result = Some(Err(errno));
        }
    }
    let begin = Instant::now();
    loop {
        let has_time = begin.elapsed() < PATIENCE;
        assert!(has_time, "they have no answer");
        let next = engine.poll(|slot, result| {
            let one = &mut sent[slot as usize];
            assert!(one.result.is_none(), "one answer");
            if let Ok(bytes) = result {
                assert_eq!(bytes, one.request.length);
                slots.get(slot, 0, one.data);
            }
            one.result = Some(result.map(drop));
            watch.answered(slot as usize, one);
        });
        for (token, transfer) in engine.transfers() {
            carrier.begin(token, &transfer).expect("it begins");
        }
        if sent.iter().all(|one| one.result.is_some()) {
            return;
        }
        let wait = next.wait().unwrap_or(Duration::from_secs(5));
        let mut ended = |token, ended| engine.ended(token, ended);
        carrier.wait(wait, &mut ended).expect("it waits");
        watch.waited(carrier);
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
