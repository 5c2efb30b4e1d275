//! What stands between a device and the instances of its guest: one that is at fault is replaced by the next,
//! where the guest says that nothing is lost by that.

use std::time::Instant;

use tracing::{error, info};

use super::fault::Fault;
use super::limiter::Limiter;
use super::opener::{Begun, Opener};
use crate::backoff::Backoff;
use crate::block::{Answer, Checked, Ended, Errno, Geometry, Next, Output, Target};
use crate::limits;
use crate::sys::Place;

/// One instance that serves requests. After a fault it is not called any more, but for the ends of its
/// transfers.
pub(super) trait Running: Target {
    /// What ended it, told once.
    fn take_fault(&mut self) -> Option<Fault>;

    /// Gives back all requests that it has not answered, when it is not called any more.
    fn take_requests(&mut self, take: &mut dyn FnMut(u32, &Checked));

    /// It is about to end: what its arena takes of the guest's memory, where it has one, is taken on.
    fn keep_arena(&mut self) -> Option<Limiter> {
        None
    }

    /// Its transfers that are under way.
    fn under_way(&self) -> u32 {
        0
    }

    /// Whether a slot's data is part of one of them.
    fn is_under_way(&self, _slot: u32) -> bool {
        false
    }
}

/// A guest as a target, whatever becomes of its instances.
pub(super) struct Supervisor {
    opener: Opener,
    geometry: Geometry,
    place: Place,
    /// What the arena takes of the guest's memory, while no instance has it in its own.
    kept: Option<Limiter>,
    /// The instance; `None` where there is none to be called.
    running: Option<Box<dyn Running + Send>>,
    /// Requests without an answer that no instance has, by slot.
    unanswered: Box<[Option<Checked>]>,
    /// How often each request was sent again; none was where there is nothing.
    replays: Option<Box<[u8]>>,
    /// The instance is not called any more.
    has_ended: bool,
    /// When the next may begin.
    restart_at: Option<Instant>,
    backoff: Backoff,
}

impl Supervisor {
    pub(super) fn new(opener: Opener, begun: Begun) -> Supervisor {
        Supervisor {
            unanswered: vec![None; begun.place.slots.count() as usize].into(),
            opener,
            geometry: begun.geometry,
            place: begun.place,
            kept: None,
            running: Some(begun.running),
            replays: None,
            has_ended: false,
            restart_at: None,
            backoff: Backoff::new(Instant::now()),
        }
    }

    /// An instance has ended: decides what comes next.
    fn at_fault(&mut self, fault: &Fault) {
        let requests = self.in_hand();
        let (summary, report) = (fault.summary(), fault.report(&requests));
        let health = &self.opener.health;
        health.count_fault(fault, requests);
        if !self.geometry.restartable {
            error!("the guest has failed; from now on every request is EIO: {summary}{report}");
            return health.give_up(&summary);
        }
        let now = Instant::now();
        let (most, delay) = (limits::RESTARTS_MAX, limits::RESTART_DELAY);
        let Some(delay) = self.backoff.ended(now, most, delay) else {
            error!("the guest keeps failing; from now on every request is EIO: {summary}{report}");
            return health.give_up(&summary);
        };
        error!("the guest's instance has ended, and is restarted: {summary}{report}");
        self.restart_at = Some(now + delay);
    }

    /// The requests without an answer, the first few of them, in words.
    fn in_hand(&self) -> Vec<String> {
        let requests = self.unanswered.iter().flatten();
        let words = requests.map(|request| request.request().to_string());
        words.take(limits::LAST_REQUESTS_MAX).collect()
    }

    /// The instance is not called any more: its requests are ours.
    fn end(&mut self) {
        self.has_ended = true;
        let unanswered = &mut self.unanswered;
        if let Some(running) = &mut self.running {
            running.take_requests(&mut |slot, request| {
                if let Some(place) = unanswered.get_mut(slot as usize) {
                    *place = Some(*request);
                }
            });
        }
    }

    fn forget_replays(&mut self, answers: &[Answer]) {
        if let Some(replays) = &mut self.replays {
            for answer in answers {
                replays[answer.slot as usize] = 0;
            }
        }
    }

    fn keep(&mut self, slot: u32, request: &Checked) {
        if let Some(place) = self.unanswered.get_mut(slot as usize) {
            *place = Some(*request);
        }
    }

    /// After a fault: gives up, or begins the next instance when it is time.
    fn go_on(&mut self, output: &mut Output) -> Next {
        if self.opener.health.has_failed() {
            return self.give_up(output);
        }
        // What the old instance asked for still moves bytes of requests that the next one is sent again.
        if self
            .running
            .as_ref()
            .is_some_and(|running| running.under_way() > 0)
        {
            return Next::Submitted;
        }
        // Also where that was an instance which did not come up.
        if self.opener.health.has_lost() {
            let reason = "a store did not flush, and the instance that knew has ended";
            error!("the guest has failed; from now on every request is EIO: {reason}");
            self.opener.health.give_up(reason);
            return self.give_up(output);
        }
        // Its memory is the next one's, but for the arena, which stays.
        if let Some(mut running) = self.running.take() {
            self.kept = running.keep_arena();
        }
        let Some(time) = self.restart_at else {
            return Next::Again;
        };
        if Instant::now() < time {
            return Next::At(time);
        }
        let mut running = match self.opener.begin_again(&self.geometry, &self.place) {
            Ok(running) => running,
            Err(fault) => {
                self.at_fault(&fault);
                return Next::Again;
            }
        };
        self.kept = None;
        self.restart_at = None;
        self.opener.health.count_restart();
        info!("the next instance of the guest serves");
        let count = self.unanswered.len();
        let replays = self.replays.get_or_insert_with(|| vec![0; count].into());
        for ((slot, request), replays) in (0..).zip(&mut self.unanswered).zip(replays) {
            let Some(request) = request.take() else {
                *replays = 0;
                continue;
            };
            *replays += 1;
            if u32::from(*replays) > limits::RESTARTS_MAX {
                // Whatever the others come to: it is not sent again for ever.
                *replays = 0;
                let result = Err(Errno::EIO);
                output.answers.push(Answer { slot, result });
                continue;
            }
            running.submit(slot, &request);
        }
        self.backoff.begun(Instant::now());
        self.running = Some(running);
        self.has_ended = false;
        Next::Again
    }

    /// Answers everything with EIO, but what still moves.
    fn give_up(&mut self, output: &mut Output) -> Next {
        for (slot, request) in (0..).zip(&mut self.unanswered) {
            let running = self.running.as_ref();
            let moves = running.is_some_and(|running| running.is_under_way(slot));
            if request.is_some() && !moves {
                *request = None;
                let result = Err(Errno::EIO);
                output.answers.push(Answer { slot, result });
            }
        }
        Next::Submitted
    }
}

impl Target for Supervisor {
    fn submit(&mut self, slot: u32, request: &Checked) {
        // What has ended takes no more.
        match &mut self.running {
            Some(running) if !self.has_ended => running.submit(slot, request),
            _ => self.keep(slot, request),
        }
    }

    fn ended(&mut self, token: u32, ended: Ended, output: &mut Output) {
        let before = output.answers.len();
        if let Some(running) = &mut self.running {
            running.ended(token, ended, output);
        }
        self.forget_replays(&output.answers[before..]);
    }

    fn poll(&mut self, output: &mut Output) -> Next {
        let failed = self.opener.health.has_failed();
        let Some(running) = self.running.as_mut().filter(|_| !self.has_ended && !failed) else {
            if !self.has_ended {
                self.end();
            }
            return self.go_on(output);
        };
        let before = output.answers.len();
        let next = running.poll(output);
        let fault = running.take_fault();
        self.forget_replays(&output.answers[before..]);
        match fault {
            None => next,
            Some(fault) => {
                self.end();
                self.at_fault(&fault);
                self.go_on(output)
            }
        }
    }

    fn take_copied_bytes(&mut self) -> u64 {
        let running = self.running.as_mut();
        running.map_or(0, |running| running.take_copied_bytes())
    }
}
