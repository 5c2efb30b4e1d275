//! Who works on which part of a disk: requests that wait run beside each other.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Range;
use std::task::{Poll, Waker};

/// Ranges that are held: by many at a time, or by one alone. They are given in the order in which they were asked
/// for, so nobody waits for ever; who holds one must not ask for another.
#[derive(Debug, Default)]
pub struct Ranges {
    /// In the order in which they were asked for.
    asked: RefCell<Vec<Asked>>,
    waiting: RefCell<Vec<Waker>>,
    tickets: Cell<u64>,
}

#[derive(Debug)]
struct Asked {
    ticket: u64,
    begin: u64,
    end: u64,
    alone: bool,
}

/// A range that is held until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    ranges: &'a Ranges,
    ticket: u64,
}

impl Ranges {
    /// Waits until nobody holds a part of this range alone; with `alone`, until nobody holds a part of it.
    pub async fn hold(&self, range: Range<u64>, alone: bool) -> Held<'_> {
        let ticket = self.tickets.get();
        self.tickets.set(ticket + 1);
        self.asked.borrow_mut().push(Asked {
            ticket,
            begin: range.start,
            end: range.end,
            alone,
        });
        let held = Held {
            ranges: self,
            ticket,
        };
        poll_fn(|context| {
            if self.is_next(ticket) {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
        held
    }

    /// Waits until nobody else has it: for what is one at a time.
    pub async fn turn(&self) -> Held<'_> {
        self.hold(0..u64::MAX, true).await
    }

    /// Whether nobody who asked before is in the way.
    fn is_next(&self, ticket: u64) -> bool {
        let asked = self.asked.borrow();
        let Ok(place) = asked.binary_search_by_key(&ticket, |one| one.ticket) else {
            return true;
        };
        let (before, mine) = (&asked[..place], &asked[place]);
        !before.iter().any(|other| {
            (other.alone || mine.alone) && other.begin < mine.end && mine.begin < other.end
        })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut asked = self.ranges.asked.borrow_mut();
        asked.retain(|one| one.ticket != self.ticket);
        drop(asked);
        for waker in self.ranges.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}
