//! Whether a device answers: the bound that takes the place of the kernel's own, which is for devices that
//! unprivileged processes add themselves. Pure, but for [`Counts::read`].

use std::fs;
use std::time::{Duration, Instant};

/// What the kernel has counted of a disk's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Under way.
    pub under_way: u64,
    /// Answered, of every kind.
    pub answered: u64,
}

impl Counts {
    /// Of a disk; `None` where there is none.
    #[must_use]
    pub fn read(id: u32) -> Option<Counts> {
        Counts::parse(&fs::read_to_string(format!("/sys/block/ublkb{id}/stat")).ok()?)
    }

    /// Of the fields of `/sys/block/NAME/stat` (`Documentation/block/stat.rst`).
    #[must_use]
    pub fn parse(text: &str) -> Option<Counts> {
        let fields: Vec<u64> = text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        // Reads, writes, discards, flushes.
        let answered = [0, 4, 11, 15].iter().filter_map(|&at| fields.get(at)).sum();
        Some(Counts {
            under_way: *fields.get(8)?,
            answered,
        })
    }
}

/// Looks at a device from time to time.
#[derive(Debug)]
pub struct Watch {
    timeout: Duration,
    /// Since when nothing was answered although something is under way, and the count at that time.
    stuck: Option<(Instant, u64)>,
}

impl Watch {
    /// Begins.
    #[must_use]
    pub fn new(timeout: Duration) -> Watch {
        Watch {
            timeout,
            stuck: None,
        }
    }

    /// Whether nothing was answered for longer than the bound.
    pub fn is_overdue(&mut self, counts: Counts, now: Instant) -> bool {
        match self.stuck {
            _ if counts.under_way == 0 => self.stuck = None,
            Some((since, answered)) if answered == counts.answered => {
                return now.duration_since(since) > self.timeout;
            }
            _ => self.stuck = Some((now, counts.answered)),
        }
        false
    }
}
