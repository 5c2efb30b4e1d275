//! Waiting for some time.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Timers that may run at a time.
pub(crate) const TIMERS_MAX: usize = 64;

/// Where one token is.
enum Token {
    Free,
    /// To be started with the next batch of actions.
    New(u64, Waker),
    Running(Waker),
    /// Nobody waits any more; its event is still to come.
    Forgotten,
    Due,
}

thread_local! {
    static TOKENS: RefCell<Vec<Token>> = const { RefCell::new(Vec::new()) };
}

/// Waits for about this long, in whole milliseconds, at most a day. Only with `export_ring!`: by
/// `export_device!` the request ends with `NotSupported`. A request that waits for longer than `--deadline`
/// is the end of the guest. At most 64 may wait at a time; while more want to, the guest is polled without
/// pause.
pub fn sleep(time: Duration) -> impl Future<Output = ()> {
    Sleep { time, token: None }
}

struct Sleep {
    time: Duration,
    token: Option<usize>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        TOKENS.with_borrow_mut(|tokens| {
            let Some(token) = self.token else {
                let after_ms = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX);
                self.token = start(tokens, after_ms, context.waker());
                return Poll::Pending;
            };
            match &mut tokens[token] {
                Token::Due => {
                    tokens[token] = Token::Free;
                    self.token = None;
                    Poll::Ready(())
                }
                Token::New(_, waker) | Token::Running(waker) => {
                    waker.clone_from(context.waker());
                    Poll::Pending
                }
                Token::Free | Token::Forgotten => Poll::Pending,
            }
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some(token) = self.token else { return };
        TOKENS.with_borrow_mut(|tokens| {
            tokens[token] = match tokens[token] {
                Token::Running(_) => Token::Forgotten,
                _ => Token::Free,
            };
        });
    }
}

fn start(tokens: &mut Vec<Token>, after_ms: u64, waker: &Waker) -> Option<usize> {
    let new = Token::New(after_ms, waker.clone());
    if let Some(free) = tokens.iter().position(|token| matches!(token, Token::Free)) {
        tokens[free] = new;
        return Some(free);
    }
    if tokens.len() < TIMERS_MAX {
        tokens.push(new);
        return Some(tokens.len() - 1);
    }
    // All are in use: tried again at once.
    waker.wake_by_ref();
    None
}

/// Timers to be started, by token and time in milliseconds.
pub(crate) fn take_new(mut start: impl FnMut(u32, u64)) {
    TOKENS.with_borrow_mut(|tokens| {
        for (number, token) in (0..).zip(tokens) {
            if let Token::New(after_ms, waker) = token {
                start(number, *after_ms);
                *token = Token::Running(waker.clone());
            }
        }
    });
}

/// A timer is due: wakes who waits for it.
pub(crate) fn due(number: u32) {
    let waker = TOKENS.with_borrow_mut(|tokens| {
        let token = tokens.get_mut(number as usize)?;
        match std::mem::replace(token, Token::Free) {
            Token::Running(waker) => {
                *token = Token::Due;
                Some(waker)
            }
            _ => None,
        }
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}
