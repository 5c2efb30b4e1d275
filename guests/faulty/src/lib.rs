//! `faulty`: a disk of zeros that misbehaves on request, to see what the host and everything above
//! it make of that. Without options it behaves.
//!
//! Options (sizes with K, M, G or T):
//!
//! * `size` (64M)
//! * `errno` = io, no-space, invalid, not-supported, read-only, timed-out, medium or corrupt: what the
//!   two below answer (io)
//! * `error-every` = N: every Nth read, write or flush fails
//! * `error-range` = START-END: reads and writes that touch these bytes fail
//! * `trap-at`, `spin-at`, `allocate-at` = OFFSET: a read or write that touches this byte traps,
//!   never returns, or takes memory without end
//! * `late` = N: every read and write counts to N first
//! * `lie` = size, block, block-order, transfer: a geometry that cannot be; read-short, read-long: a
//!   read gives one byte too few or too many
//! * `open` = trap, spin or fail: what `open` does
//! * `claim` = read-only, write-through, fua or rotational: a feature to declare

wit_bindgen::generate!({ world: "disk", path: "../../wit" });

use std::cell::RefCell;
use std::ops::Range;

use exports::wasmblk::block::device::Guest;
use wasmblk::block::host::{Level, log};
use wasmblk::block::types::{Errno, Features, Geometry, OpenError};
use wasmblk_guest::parse_size;

/// What to do wrong, and how often it was asked.
#[derive(Default)]
struct Plan {
    errno: Option<Errno>,
    error_every: u64,
    error_range: Range<u64>,
    trap_at: Option<u64>,
    spin_at: Option<u64>,
    allocate_at: Option<u64>,
    late: u64,
    lie: String,
    calls: u64,
}

thread_local! {
    static PLAN: RefCell<Plan> = RefCell::default();
}

impl Plan {
    /// What becomes of a call that touches `bytes` (none for a flush).
    fn run(&mut self, bytes: Range<u64>) -> Result<(), Errno> {
        let touched = |at: Option<u64>| at.is_some_and(|at| bytes.contains(&at));
        for step in 0..self.late {
            std::hint::black_box(step);
        }
        if touched(self.trap_at) {
            panic!("told to trap at byte {}", self.trap_at.unwrap_or_default());
        }
        if touched(self.spin_at) {
            spin();
        }
        if touched(self.allocate_at) {
            allocate();
        }
        self.calls += 1;
        let counted = self.error_every > 0 && self.calls.is_multiple_of(self.error_every);
        let in_range = bytes.start < self.error_range.end && self.error_range.start < bytes.end;
        if counted || in_range {
            return Err(self.errno.unwrap_or(Errno::Io));
        }
        Ok(())
    }
}

fn spin() -> ! {
    loop {
        std::hint::black_box(());
    }
}

/// Takes all the memory there is, and goes on as if nothing had happened.
fn allocate() {
    loop {
        let mut more: Vec<u8> = Vec::new();
        if more.try_reserve_exact(1 << 20).is_err() {
            return;
        }
        more.leak();
    }
}

fn parse_errno(name: &str) -> Option<Errno> {
    Some(match name {
        "io" => Errno::Io,
        "no-space" => Errno::NoSpace,
        "invalid" => Errno::Invalid,
        "not-supported" => Errno::NotSupported,
        "read-only" => Errno::ReadOnly,
        "timed-out" => Errno::TimedOut,
        "medium" => Errno::Medium,
        "corrupt" => Errno::Corrupt,
        _ => return None,
    })
}

fn parse_claim(name: &str) -> Option<Features> {
    Some(match name {
        "read-only" => Features::READ_ONLY,
        "write-through" => Features::WRITE_THROUGH,
        "fua" => Features::FUA,
        "rotational" => Features::ROTATIONAL,
        _ => return None,
    })
}

fn parse_range(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.split_once('-')?;
    Some(parse_size(start).ok()?..parse_size(end).ok()?)
}

struct Faulty;

impl Guest for Faulty {
    fn open(options: Vec<(String, String)>) -> Result<Geometry, OpenError> {
        std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
        let mut geometry = Geometry {
            size_bytes: 64 << 20,
            logical_block_bytes: 0,
            physical_block_bytes: 0,
            max_transfer_bytes: 0,
            features: Features::empty(),
        };
        let mut plan = Plan::default();
        for (key, value) in &options {
            let bad =
                || OpenError::BadOption(format!("{key}={value}: not a value for this option"));
            let number = || parse_size(value).map_err(|_| bad());
            match key.as_str() {
                "size" => geometry.size_bytes = number()?,
                "errno" => plan.errno = Some(parse_errno(value).ok_or_else(bad)?),
                "error-every" => plan.error_every = number()?,
                "error-range" => plan.error_range = parse_range(value).ok_or_else(bad)?,
                "trap-at" => plan.trap_at = Some(number()?),
                "spin-at" => plan.spin_at = Some(number()?),
                "allocate-at" => plan.allocate_at = Some(number()?),
                "late" => plan.late = number()?,
                "lie" => plan.lie.clone_from(value),
                "open" => match value.as_str() {
                    "trap" => panic!("told to trap in open"),
                    "spin" => spin(),
                    "fail" => return Err(OpenError::Other("told to fail in open".into())),
                    _ => return Err(bad()),
                },
                "claim" => {
                    let claim = parse_claim(value).ok_or_else(bad)?;
                    geometry.features = geometry.features | claim;
                }
                _ => return Err(OpenError::BadOption(format!("unknown option '{key}'"))),
            }
        }
        match plan.lie.as_str() {
            "size" => geometry.size_bytes = 1000,
            "block" => geometry.logical_block_bytes = 3000,
            "block-order" => geometry.physical_block_bytes = 256,
            "transfer" => geometry.max_transfer_bytes = u32::MAX,
            "" | "read-short" | "read-long" => {}
            _ => return Err(OpenError::BadOption("unknown lie".into())),
        }
        PLAN.set(plan);
        Ok(geometry)
    }

    fn read(offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        PLAN.with_borrow_mut(|plan| {
            plan.run(offset..offset + u64::from(length))?;
            let length = match plan.lie.as_str() {
                "read-short" => length - 1,
                "read-long" => length + 1,
                _ => length,
            };
            Ok(vec![0; length as usize])
        })
    }

    fn write(offset: u64, data: Vec<u8>, _fua: bool) -> Result<(), Errno> {
        PLAN.with_borrow_mut(|plan| plan.run(offset..offset + data.len() as u64))
    }

    fn flush() -> Result<(), Errno> {
        PLAN.with_borrow_mut(|plan| plan.run(0..0))
    }
}

export!(Faulty);
