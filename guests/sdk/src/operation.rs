//! What the host does for this guest while it does other things: each operation has a token, until the event of
//! its end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::arena::Record;

/// Where one token is.
enum Token {
    Free,
    /// To be begun with the next batch of actions.
    New(Record, Waker),
    UnderWay(Waker),
    /// Nobody waits any more; its event is still to come.
    Forgotten,
    /// With which status it ended.
    Ended(u32),
}

#[derive(Default)]
struct Tokens {
    states: Vec<Token>,
    free: Vec<u32>,
    new: Vec<u32>,
    /// Who waits for a token, in the order in which they came: none is free then.
    waiting: VecDeque<(u64, Waker)>,
    /// Tokens for those who waited, by their tickets, until they take them.
    granted: Vec<(u64, u32)>,
    next_ticket: u64,
}

thread_local! {
    static TOKENS: RefCell<Tokens> = RefCell::default();
}

/// How many there may be at a time.
pub(crate) fn set_max(ops_max: usize) {
    TOKENS.with_borrow_mut(|tokens| {
        tokens.states.resize_with(ops_max, || Token::Free);
        tokens.free.extend((0..ops_max as u32).rev());
        tokens.new.reserve(ops_max);
        tokens.granted.reserve(ops_max);
    });
}

/// One operation: an action without its token. It comes to the status in its event.
pub(crate) struct Operation {
    action: Record,
    token: Option<u32>,
    /// Its place among those who wait for a token.
    ticket: Option<u64>,
    /// The host uses memory that somebody here has borrowed, until it ends.
    borrows: bool,
}

impl Operation {
    pub(crate) fn new(action: Record, borrows: bool) -> Operation {
        Operation {
            action,
            token: None,
            ticket: None,
            borrows,
        }
    }
}

impl Future for Operation {
    type Output = u32;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<u32> {
        TOKENS.with_borrow_mut(|tokens| {
            let Some(token) = self.token else {
                if let Some(token) = tokens.take(&mut self.ticket, context.waker()) {
                    tokens.states[token as usize] =
                        Token::New(self.action, context.waker().clone());
                    tokens.new.push(token);
                    self.token = Some(token);
                }
                return Poll::Pending;
            };
            match &mut tokens.states[token as usize] {
                Token::Ended(status) => {
                    let status = *status;
                    self.token = None;
                    tokens.give_back(token);
                    Poll::Ready(status)
                }
                Token::New(_, waker) | Token::UnderWay(waker) => {
                    waker.clone_from(context.waker());
                    Poll::Pending
                }
                Token::Free | Token::Forgotten => Poll::Pending,
            }
        })
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            TOKENS.with_borrow_mut(|tokens| tokens.forget(ticket));
        }
        let Some(token) = self.token else { return };
        TOKENS.with_borrow_mut(|tokens| match tokens.states[token as usize] {
            Token::UnderWay(_) if self.borrows => {
                panic!("a transfer is dropped while the host uses its memory")
            }
            Token::UnderWay(_) => tokens.states[token as usize] = Token::Forgotten,
            _ => {
                tokens.new.retain(|new| *new != token);
                tokens.give_back(token);
            }
        });
    }
}

impl Tokens {
    /// A free token, or the one that was granted to a ticket. Without either, the ticket is who waits.
    fn take(&mut self, ticket: &mut Option<u64>, waker: &Waker) -> Option<u32> {
        if let Some(waiting) = *ticket {
            let place = self.granted.iter().position(|(of, _)| *of == waiting)?;
            *ticket = None;
            return Some(self.granted.swap_remove(place).1);
        }
        if let Some(token) = self.free.pop() {
            return Some(token);
        }
        *ticket = Some(self.next_ticket);
        self.waiting.push_back((self.next_ticket, waker.clone()));
        self.next_ticket += 1;
        None
    }

    /// Who had this ticket waits no more.
    fn forget(&mut self, ticket: u64) {
        match self.granted.iter().position(|(of, _)| *of == ticket) {
            Some(place) => {
                let (_, token) = self.granted.swap_remove(place);
                self.give_back(token);
            }
            None => self.waiting.retain(|(of, _)| *of != ticket),
        }
    }

    fn give_back(&mut self, token: u32) {
        self.states[token as usize] = Token::Free;
        match self.waiting.pop_front() {
            Some((ticket, waker)) => {
                self.granted.push((ticket, token));
                waker.wake();
            }
            None => self.free.push(token),
        }
    }
}

/// Operations to be begun, as actions.
pub(crate) fn take_new(mut begin: impl FnMut(&Record)) {
    TOKENS.with_borrow_mut(|tokens| {
        for token in tokens.new.drain(..) {
            let state = &mut tokens.states[token as usize];
            if let Token::New(action, waker) = state {
                action[0] |= u64::from(token) << 32;
                begin(action);
                *state = Token::UnderWay(waker.clone());
            }
        }
    });
}

/// An operation has ended: wakes who waits for it.
pub(crate) fn ended(token: u32, status: u32) {
    let waker = TOKENS.with_borrow_mut(|tokens| {
        let state = tokens.states.get_mut(token as usize)?;
        match std::mem::replace(state, Token::Ended(status)) {
            Token::UnderWay(waker) => Some(waker),
            Token::Forgotten => {
                tokens.give_back(token);
                None
            }
            other => {
                *state = other;
                None
            }
        }
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}
