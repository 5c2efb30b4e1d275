//! Memory to copy through: a few buffers for all requests.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use wasmblk_guest::{Errno, Scratch, Store};

/// Buffers of equal length.
#[derive(Debug)]
pub struct Buffers {
    free: RefCell<Vec<Scratch>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Buffers {
    /// Bytes of each.
    pub const BYTES: usize = 64 << 10;

    /// So many. Only in `open`.
    #[must_use]
    pub fn new(count: usize) -> Buffers {
        let free = (0..count).map(|_| Scratch::new(Buffers::BYTES)).collect();
        Buffers {
            free: RefCell::new(free),
            waiting: RefCell::default(),
        }
    }

    /// Waits for one.
    pub async fn take(&self) -> Scratch {
        poll_fn(|context| match self.free.borrow_mut().pop() {
            Some(buffer) => Poll::Ready(buffer),
            None => {
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Gives one back.
    pub fn give_back(&self, buffer: Scratch) {
        self.free.borrow_mut().push(buffer);
        if let Some(waker) = self.waiting.borrow_mut().pop() {
            waker.wake();
        }
    }

    /// Copies bytes from a place in one store to a place in another.
    ///
    /// # Errors
    ///
    /// The stores'.
    pub async fn copy(
        &self,
        (from, from_at): (&Store, u64),
        (to, to_at): (&Store, u64),
        length: u64,
    ) -> Result<(), Errno> {
        let mut buffer = self.take().await;
        let mut done = 0;
        let mut outcome = Ok(());
        while done < length && outcome.is_ok() {
            let part = (length - done).min(Buffers::BYTES as u64) as usize;
            outcome = from
                .read(from_at + done, &mut buffer.bytes_mut()[..part])
                .await;
            if outcome.is_ok() {
                outcome = to.write(to_at + done, &buffer.bytes()[..part]).await;
            }
            done += part as u64;
        }
        self.give_back(buffer);
        outcome
    }
}
