//! `told`: a disk for tests, of one block, which says what WASI told the guest when it was opened: a line for each
//! option, in their order.
//!
//! Options: `time`, the seconds since 1970; `random`, a number made of random bytes; `env`, the variable of that name;
//! `stderr`, which writes its value there; `later`, the same at each read; `sleep`, for so many milliseconds.
//!
//! Of files: `list`, `read` and `size` of a path, `write` and `append` to a path and behind a ':' what; `mkdir`,
//! `rmdir`, `remove`, `rename` and `link` from one to another with ':' between them; `often`, all that a path holds
//! in a thousand reads; and `fill`, which writes a MiB, and compares.
//!
//! Of the network: `ask` says something to `HOST:PORT/WORDS` and tells what comes back, `asks` does so at each read;
//! `leave` says more to `HOST:PORT` than it takes; `look-up` of a name; `listen` and `udp` at `ADDRESS:PORT`.
//!
//! `first`, with one of these and its value behind a ':', and the disk does not open where that has no good answer.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, SystemTime};
use std::{env, thread};

mod files;
mod network;

use wasmblk_guest::{Disk, Errno, Info, OpenError};

const BYTES: u64 = 4096;

struct Told {
    block: Vec<u8>,
    /// What it says at each read.
    later: Option<String>,
    /// Whom it asks at each read.
    asks: Option<String>,
}

impl Disk for Told {
    fn open(options: &[(String, String)]) -> Result<(Told, Info), OpenError> {
        let mut text = String::new();
        let (mut later, mut asks) = (None, None);
        for (key, value) in options {
            match key.as_str() {
                "later" => later = Some(value.clone()),
                "asks" => asks = Some(value.clone()),
                "first" => {
                    let (what, value) = value.split_once(':').unwrap_or((value, ""));
                    let told = tell(what, value).unwrap_or_default();
                    if ["NotFound", "PermissionDenied", "Uncategorized"].contains(&&*told) {
                        return Err(OpenError::Other(told));
                    }
                }
                _ => {
                    let told = tell(key, value);
                    text.push_str(&told.ok_or_else(|| OpenError::BadOption(key.clone()))?);
                    text.push('\n');
                }
            }
        }
        let mut block = text.into_bytes();
        block.resize(BYTES as usize, b' ');
        Ok((Told { block, later, asks }, Info::new(BYTES)))
    }

    async fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        if let Some(words) = &self.later {
            eprintln!("{words}");
        }
        if let Some(place) = &self.asks {
            let answer = network::ask(place).map_err(|_| Errno::Io)?;
            data.fill(b' ');
            data[..answer.len()].copy_from_slice(answer.as_bytes());
            return Ok(());
        }
        let begin = offset as usize;
        data.copy_from_slice(&self.block[begin..begin + data.len()]);
        Ok(())
    }

    async fn write(&self, _: u64, _: &[u8], _: bool) -> Result<(), Errno> {
        Err(Errno::ReadOnly)
    }
}

fn tell(what: &str, value: &str) -> Option<String> {
    Some(match what {
        "time" => {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| since.as_secs()).to_string()
        }
        // The standard library's keys for its maps are from the system's random numbers.
        "random" => RandomState::new().hash_one(value).to_string(),
        "env" => env::var(value).unwrap_or_else(|_| "nothing".into()),
        "stderr" => {
            eprintln!("{value}");
            "said".into()
        }
        "sleep" => {
            thread::sleep(Duration::from_millis(value.parse().ok()?));
            "slept".into()
        }
        _ => return files::tell(what, value).or_else(|| network::tell(what, value)),
    })
}

wasmblk_guest::export_ring!(Told);
