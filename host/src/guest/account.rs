//! What a guest of the contract `ring` has in hand: requests, timers, transfers. All that it asks for is held
//! against this, which is the host's own; nothing here knows where the records lie.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::breach::Breach;
use super::coverage::Coverage;
use super::held::Held;
use super::periods::Periods;
use super::records::{self, Action, Half, Record};
use super::terms::Terms;
use crate::block::{Answer, Checked, Ended, Errno, Memory, Next, Output, Transfer, Work};
use crate::limits;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Free,
    Timer,
    /// A transfer: what is left of it, how much of that is asked for, and how much is done.
    Transfer {
        left: Transfer,
        asked: u32,
        done: u32,
    },
    /// It has ended, and its event is not written.
    Ended,
}

/// The account of one instance.
#[derive(Debug)]
pub struct Account {
    terms: Terms,
    requests: Box<[Held]>,
    held: u32,
    /// The guest's, and behind them one for each tag: of the transfer that answers it.
    tokens: Box<[Token]>,
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    under_way: u32,
    /// Transfers that have ended, until their events are written.
    ended: Vec<(u32, Result<(), Errno>)>,
    coverage: Option<Coverage>,
    periods: Periods,
    copied_bytes: u64,
    /// The guest is not called any more: transfers end, and do not go on.
    closed: bool,
    /// A store did not make something durable.
    has_lost: bool,
}

impl Account {
    /// What an operation takes: here, where it is begun, and in the kernel's ring.
    const OP_BYTES: usize = size_of::<(Token, Reverse<(Instant, u32)>, (u32, Transfer))>() + 128;

    /// Nothing is in hand.
    #[must_use]
    pub fn new(terms: Terms) -> Account {
        const { assert!(Account::OP_BYTES <= limits::RING_OP_BYTES) };
        Account {
            requests: vec![Held::NOTHING; terms.depth as usize].into(),
            held: 0,
            tokens: vec![Token::Free; (terms.ops_max + terms.depth) as usize].into(),
            timers: BinaryHeap::with_capacity(terms.ops_max as usize),
            under_way: 0,
            ended: Vec::with_capacity(terms.ops_max as usize),
            coverage: terms
                .hidden_bytes_max
                .map(|bytes| Coverage::new(terms.depth, bytes)),
            periods: Periods::new(terms.deadline, terms.ticks.clone()),
            copied_bytes: 0,
            closed: false,
            has_lost: false,
            terms,
        }
    }

    /// A request goes to the guest. Its tag is free, as the engine has one request for each slot.
    #[inline]
    pub fn begin(&mut self, tag: u32, request: &Checked) {
        let Some(held) = self.requests.get_mut(tag as usize) else {
            return;
        };
        held.take(*request, self.periods.number());
        self.held += 1;
        if let Some(coverage) = &mut self.coverage
            && held.is_read()
        {
            coverage.begin(tag, held.length());
        }
    }

    /// Gives back all requests that the guest has, when it is not called any more.
    pub fn take_requests(&mut self, mut take: impl FnMut(u32, &Checked)) {
        for (tag, held) in (0..).zip(&mut self.requests) {
            if let Some(request) = held.request() {
                take(tag, request);
                held.give_back();
            }
        }
        self.held = 0;
    }

    /// Carries out one action of the guest.
    ///
    /// # Errors
    ///
    /// How it breaks the contract.
    #[inline]
    pub fn act(&mut self, record: &Record, output: &mut Output) -> Result<(), Breach> {
        // Nearly all are of this kind.
        if let Some(tag) = records::done(record) {
            let result = Ok(self.complete(tag, true)?);
            output.answers.push(Answer { slot: tag, result });
            return Ok(());
        }
        let [head, offset, size, place] = *record;
        self.act_by_kind([head, offset], [size, place], output)
    }

    /// By halves, which go in registers: a whole record would be written to memory for this call, also where `act` has
    /// no need of it.
    fn act_by_kind(&mut self, first: Half, last: Half, output: &mut Output) -> Result<(), Breach> {
        let record = [first[0], first[1], last[0], last[1]];
        match records::action(&record).map_err(Breach::Action)? {
            Action::Complete { tag, result } => {
                let length = self.complete(tag, result.is_ok())?;
                let result = result.map(|()| length);
                output.answers.push(Answer { slot: tag, result });
            }
            Action::Timer { token, after_ms } => {
                self.take_token(token, Token::Timer)?;
                let after = Duration::from_millis(after_ms).min(limits::RING_TIMER_MAX);
                self.timers.push(Reverse((Instant::now() + after, token)));
            }
            Action::Transfer { token, transfer } => self.transfer(token, transfer, output)?,
            Action::Answer(transfer) => self.answer_by(transfer, output)?,
        }
        Ok(())
    }

    fn complete(&mut self, tag: u32, done: bool) -> Result<u32, Breach> {
        let held = self.requests.get_mut(tag as usize);
        let held = held.filter(|held| held.is_held()).ok_or(Breach::Tag(tag))?;
        if held.transfers > 0 {
            return Err(Breach::UnderWay(tag));
        }
        if let Some(coverage) = &self.coverage
            && done
            && held.is_read()
            && !coverage.is_whole(tag)
        {
            return Err(Breach::NotFilled(tag));
        }
        held.give_back();
        self.held -= 1;
        Ok(held.length())
    }

    fn take_token(&mut self, token: u32, state: Token) -> Result<(), Breach> {
        match self.tokens.get_mut(token as usize) {
            Some(place @ Token::Free) if token < self.terms.ops_max => *place = state,
            _ => return Err(Breach::Token(token)),
        }
        Ok(())
    }

    fn transfer(&mut self, token: u32, asked: Transfer, output: &mut Output) -> Result<(), Breach> {
        let refused = self.check(&asked)?;
        self.take_token(token, Token::Ended)?;
        if let Some(errno) = refused {
            self.ended.push((token, Err(errno)));
            return Ok(());
        }
        if let Memory::Request(tag, _) = asked.memory {
            self.requests[tag as usize].transfers += 1;
        }
        if matches!(asked.work, Work::CopyIn | Work::CopyOut) {
            self.copied_bytes += u64::from(asked.length);
        }
        self.under_way += 1;
        self.go_on(token, asked, 0, output);
        Ok(())
    }

    /// A request goes from the guest's hands into a store's, or comes from there.
    fn answer_by(&mut self, asked: Transfer, output: &mut Output) -> Result<(), Breach> {
        let Memory::Request(tag, at) = asked.memory else {
            return Err(Breach::NotAll(u32::MAX));
        };
        let refused = self.check(&asked)?;
        let held = &mut self.requests[tag as usize];
        if held.transfers > 0 {
            return Err(Breach::UnderWay(tag));
        }
        if at != 0 || asked.length != held.length() {
            return Err(Breach::NotAll(tag));
        }
        held.give_back();
        self.held -= 1;
        self.under_way += 1;
        let token = self.terms.ops_max + tag;
        match refused {
            Some(errno) => self.finish(token, &asked, Err(errno), output),
            None => self.go_on(token, asked, 0, output),
        }
        Ok(())
    }

    /// The tag that a transfer answers, by its token.
    fn answered_by(&self, token: u32) -> Option<u32> {
        token.checked_sub(self.terms.ops_max)
    }

    /// Whether all that a transfer names is the guest's to name; and then, with which errno it ends without
    /// having begun.
    fn check(&self, asked: &Transfer) -> Result<Option<Errno>, Breach> {
        let request = |tag: u32| self.requests.get(tag as usize).and_then(Held::request);
        self.terms.check_memory(asked, request)?;
        self.terms.check_store(asked)
    }

    fn go_on(&mut self, token: u32, left: Transfer, done: u32, output: &mut Output) {
        let part = left.part();
        let asked = part.length;
        self.tokens[token as usize] = Token::Transfer { left, asked, done };
        if !self.terms.has_way(&part) {
            return self.ended(token, Err(Errno::EOPNOTSUPP), output);
        }
        output.transfers.push((token, part));
    }

    /// A part of a transfer has ended. What is left of it goes on.
    pub fn ended(&mut self, token: u32, ended: Ended, output: &mut Output) {
        let Some(&Token::Transfer { left, asked, done }) = self.tokens.get(token as usize) else {
            return;
        };
        let durable = matches!(left.work, Work::Flush | Work::Write { durable: true });
        self.has_lost |= durable && ended.is_err();
        let result = match ended {
            // What answers goes on: it is the guest's no more.
            _ if self.closed && self.answered_by(token).is_none() => Err(Errno::EIO),
            Err(Errno::EOPNOTSUPP) if left.work == Work::Discard => Ok(()),
            Err(Errno::EOPNOTSUPP) if matches!(left.work, Work::WriteZeroes { .. }) => {
                // Where the store has no better way, zeros are written.
                let work = Work::Write { durable: false };
                let memory = Memory::Zeros;
                let zeros = Transfer {
                    work,
                    memory,
                    ..left
                };
                return self.go_on(token, zeros, done, output);
            }
            Err(errno) => Err(errno),
            Ok(_) if left.memory == Memory::Nowhere => Ok(()),
            // A store that ends before its time.
            Ok(0) => Err(Errno::EIO),
            Ok(bytes) => {
                let bytes = bytes.min(asked);
                if let Some(rest) = left.rest(bytes) {
                    return self.go_on(token, rest, done + bytes, output);
                }
                if self.answered_by(token).is_none() {
                    self.cover(&left, done);
                }
                Ok(())
            }
        };
        self.finish(token, &left, result, output);
    }

    /// All of a transfer is done: what it filled, its last part and so much before it, is there.
    fn cover(&mut self, last: &Transfer, done: u32) {
        if let (Memory::Request(tag, at), Some(coverage)) = (last.memory, &mut self.coverage)
            && matches!(last.work, Work::Read | Work::Fill | Work::CopyIn)
        {
            coverage.add(tag, at - done, last.length + done);
        }
    }

    fn finish(
        &mut self,
        token: u32,
        left: &Transfer,
        result: Result<(), Errno>,
        output: &mut Output,
    ) {
        self.under_way -= 1;
        if let Some(slot) = self.answered_by(token) {
            self.tokens[token as usize] = Token::Free;
            let length = self.requests[slot as usize].length();
            let result = result.map(|()| length);
            output.answers.push(Answer { slot, result });
            return;
        }
        if let Memory::Request(tag, _) = left.memory {
            self.requests[tag as usize].transfers -= 1;
        }
        self.tokens[token as usize] = Token::Ended;
        self.ended.push((token, result));
    }

    /// The guest is not called any more: what is under way ends, and does not go on.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Gives the events of what has ended and of timers that are due.
    pub fn take_events(&mut self, mut event: impl FnMut(&Record)) {
        for (token, result) in self.ended.drain(..) {
            self.tokens[token as usize] = Token::Free;
            event(&records::ended_event(token, result));
        }
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Reverse((due, token))) = self.timers.peek().copied()
            && due <= now
        {
            self.timers.pop();
            self.tokens[token as usize] = Token::Free;
            event(&records::timer_event(token));
        }
    }

    /// Requests that the guest keeps have a bound, and must wait for something. `busy` is a guest that has
    /// more to do, `idle` one that was not called this time.
    ///
    /// # Errors
    ///
    /// Where it has kept one for too long.
    pub fn check_kept(&mut self, busy: bool, idle: bool) -> Result<(), Breach> {
        if self.held == 0 {
            return Ok(());
        }
        let waits = self.under_way > 0 || !self.timers.is_empty() || !self.ended.is_empty();
        if !busy && !waits {
            return Err(Breach::Idle);
        }
        let before = self.periods.number();
        if !self.periods.pass(idle) {
            return Ok(());
        }
        // A store may take its time, but not for ever.
        let most = if self.under_way > 0 {
            limits::RING_STORE_PERIODS_MAX
        } else {
            1
        };
        let overdue = |held: &Held| held.age(before).is_some_and(|age| age >= most);
        if self.requests.iter().any(overdue) {
            return Err(Breach::Overdue);
        }
        Ok(())
    }

    /// When the guest is to be called again.
    #[must_use]
    pub fn next(&self) -> Next {
        if !self.ended.is_empty() {
            return Next::Again;
        }
        let due = self.timers.peek().map(|Reverse((due, _))| *due);
        let end = self.periods.end().filter(|_| self.held > 0);
        match (due, end) {
            (Some(due), Some(end)) => Next::At(due.min(end)),
            (Some(due), None) => Next::At(due),
            // What ends will tell.
            (None, _) if self.under_way > 0 => Next::Submitted,
            (None, Some(_)) => Next::Within(self.periods.length()),
            (None, None) => Next::Submitted,
        }
    }

    /// Whether a store did not make something durable that it was to.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.has_lost
    }

    /// Transfers under way.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.under_way
    }

    /// Whether a request's data is part of a transfer under way.
    #[must_use]
    pub fn is_under_way(&self, tag: u32) -> bool {
        let held = self.requests.get(tag as usize);
        held.is_some_and(|held| held.transfers > 0)
    }

    /// Bytes copied between requests' data and the arena since the last call.
    pub fn take_copied_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.copied_bytes)
    }
}
