//! A target that answers at once, without a guest: what is left is our own loop.

use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use wasmblk::block::{Answer, Checked, Claims, Ended, Geometry, Next, Output, Target};
use wasmblk::serve::Engine;
use wasmblk::stats::Stats;
use wasmblk::sys::{Place, Slots};
use wasmblk::ublk::{Control, DataPath, Device, Spec, fetch, serve_queues};

/// Answers everything with success.
#[derive(Default)]
pub(crate) struct Native {
    answers: Vec<Answer>,
}

impl Target for Native {
    fn submit(&mut self, slot: u32, request: &Checked) {
        let result = Ok(request.request().length);
        self.answers.push(Answer { slot, result });
    }

    fn ended(&mut self, _token: u32, _ended: Ended, _output: &mut Output) {}

    fn poll(&mut self, output: &mut Output) -> Next {
        output.answers.append(&mut self.answers);
        Next::Submitted
    }

    fn take_copied_bytes(&mut self) -> u64 {
        0
    }
}

/// The number of the device.
pub(crate) const ID: u32 = 20;

/// Serves a ublk device until the process is ended.
pub(crate) fn serve() -> Result<()> {
    let claims = Claims {
        size_bytes: 1 << 30,
        write_through: true,
        ..Claims::default()
    };
    let geometry = Geometry::new(&claims)?;
    let spec = Spec {
        id: Some(ID),
        queues: 1,
        depth: 128,
        data_path: DataPath::Copy,
        hidden: false,
        unprivileged: false,
        recover: false,
        align_bytes: 1,
        mark: 0,
    };
    let mut device = Device::add(Control::open()?, &spec, &geometry)?;
    let file: Arc<_> = device.char_device().context("it is open")?;
    let info = *device.info();
    let slots = Slots::new(128, info.max_io_buf_bytes)?;
    let worker = thread::spawn(move || -> Result<()> {
        let mut ring = fetch(&file, &info, &[0], Place::new(slots))?;
        let mut native = Native::default();
        let stats = Stats::default();
        let mut engine = Engine::new(geometry, &mut native, 128, &stats);
        Ok(serve_queues(&mut ring, &mut engine)?)
    });
    device.start()?;
    match worker.join() {
        Ok(served) => served,
        Err(_) => anyhow::bail!("the worker panicked"),
    }
}
