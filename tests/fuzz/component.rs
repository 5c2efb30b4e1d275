//! Components from anybody: each is looked at, compiled and opened within its limits, or refused.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use wasmblk::guest::{
    Clock, Granted, Guest, Limits, Opener, Source, Tags, compile_here, inspect, new_engine,
};
use wasmtime::Engine;

/// Longer ones are only looked at: to compile them takes its time.
const COMPILED_BYTES_MAX: usize = 16 << 10;

static ENGINE: LazyLock<(Engine, Clock)> = LazyLock::new(|| {
    let engine = new_engine().expect("an engine");
    let clock = Clock::start(&engine).expect("a clock");
    (engine, clock)
});

pub(crate) fn target(bytes: &[u8]) {
    match inspect(bytes) {
        Ok(found) => {
            if found.refused.is_empty() && bytes.len() <= COMPILED_BYTES_MAX {
                open(bytes);
            }
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

fn open(bytes: &[u8]) {
    let (engine, clock) = &*ENGINE;
    let source = Source {
        path: "guest.wasm".into(),
        digest: String::new(),
        bytes: bytes.to_vec(),
    };
    let Ok(artefact) = compile_here(engine, &source) else {
        return;
    };
    let limits = Limits {
        memory_bytes: 16 << 20,
        deadline: Duration::from_millis(100),
        ..Limits::default()
    };
    let guest = match Guest::load(engine, &artefact, "guest", limits, Granted::default()) {
        Ok(guest) => Arc::new(guest),
        Err(why) => return assert!(!why.chain().is_empty()),
    };
    let opener = Opener {
        guest: guest.clone(),
        clock: clock.clone(),
        health: Arc::default(),
        options: Arc::default(),
        tags: Tags {
            queues: 1,
            depth: 4,
        },
    };
    // Whatever it is, it is a device or it is not.
    let _ = opener.open();
    assert!(guest.usage().memory_bytes <= limits.memory_bytes + (64 << 10));
}
