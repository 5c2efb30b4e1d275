//! Progress of long work, and what it took.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How often a long step says that it goes on.
const HEARTBEAT: Duration = Duration::from_secs(30);

static DONE: Mutex<Vec<(String, f64)>> = Mutex::new(Vec::new());

/// Prints a line to standard error, where all progress goes.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Does one step: says that it begins, and how long it took.
///
/// # Errors
///
/// The step's.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(&format!("{} {name} ...", mark("==>")));
    let begin = Instant::now();
    let (done, is_done) = channel::<()>();
    let name_too = name.to_owned();
    // Long steps show that they are alive.
    let heart = thread::spawn(move || {
        while is_done.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            let seconds = begin.elapsed().as_secs();
            say(&format!("{} {name_too}: {seconds} s so far", mark("   ")));
        }
    });
    let result = work();
    drop(done);
    let _ = heart.join();
    let seconds = begin.elapsed().as_secs_f64();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    say(&format!(
        "{} {name}: {verdict} in {seconds:.1} s",
        mark("   ")
    ));
    DONE.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((name.to_owned(), seconds));
    result
}

/// Prints what each step took. Steps may have run beside each other.
pub fn budget() {
    say("\nTime by step (some ran beside each other):");
    for (name, seconds) in DONE.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        say(&format!("{seconds:>8.1} s  {name}"));
    }
}

fn mark(text: &str) -> String {
    if io::stderr().is_terminal() {
        format!("\x1b[1;32m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
