//! Runs the futures of requests, one for each tag, and those in the background. Each tag has room for its future,
//! so nothing is allocated for a request.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

type Background = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    /// Futures that can go on: tags, and behind them those in the background.
    static READY: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    static BACKGROUND: RefCell<Vec<Background>> = const { RefCell::new(Vec::new()) };
}

/// Runs a future beside the requests, for as long as the disk lives. Only in `open`; it begins when that is
/// done. While requests come, it has its turns between them.
pub fn run_in_background(future: impl Future<Output = ()> + 'static) {
    BACKGROUND.with_borrow_mut(|background| background.push(Box::pin(future)));
}

struct Number(usize);

impl Wake for Number {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        READY.with_borrow_mut(|ready| ready.push(self.0));
    }
}

pub(crate) struct Executor<F> {
    tasks: Vec<Pin<Box<Option<F>>>>,
    background: Vec<Background>,
    wakers: Vec<Waker>,
    /// Kept for its room.
    woken: Vec<usize>,
}

impl<F: Future> Executor<F> {
    pub(crate) fn new(tags: usize) -> Executor<F> {
        let background = BACKGROUND.take();
        let all = tags + background.len();
        READY.with_borrow_mut(|ready| ready.extend(tags..all));
        Executor {
            tasks: (0..tags).map(|_| Box::pin(None)).collect(),
            background,
            wakers: (0..all)
                .map(|number| Waker::from(Arc::new(Number(number))))
                .collect(),
            woken: Vec::new(),
        }
    }

    /// Begins a tag's future; gives what it comes to if it does not wait.
    pub(crate) fn begin(&mut self, tag: usize, future: F) -> Option<F::Output> {
        let task = &mut self.tasks[tag];
        task.as_mut().set(Some(future));
        run(task.as_mut(), &self.wakers[tag])
    }

    /// Goes on with futures that were woken; `done` is called for each of a tag that ends.
    pub(crate) fn go_on_with_woken(&mut self, mut done: impl FnMut(usize, F::Output)) {
        // Who wakes itself again waits for the next call.
        READY.with_borrow_mut(|ready| std::mem::swap(ready, &mut self.woken));
        for index in 0..self.woken.len() {
            let number = self.woken[index];
            if let Some(output) = self.go_on(number) {
                done(number, output);
            }
        }
        self.woken.clear();
    }

    /// Whether a future has woken itself.
    pub(crate) fn has_woken() -> bool {
        READY.with_borrow(|ready| !ready.is_empty())
    }

    fn go_on(&mut self, number: usize) -> Option<F::Output> {
        let Some(task) = self.tasks.get_mut(number) else {
            let mut context = Context::from_waker(&self.wakers[number]);
            let place = number - self.tasks.len();
            let ended = self.background[place]
                .as_mut()
                .poll(&mut context)
                .is_ready();
            if ended {
                self.background[place] = Box::pin(std::future::pending());
            }
            return None;
        };
        run(task.as_mut(), &self.wakers[number])
    }
}

/// Runs a future, where there is one, until it waits or ends.
fn run<F: Future>(mut task: Pin<&mut Option<F>>, waker: &Waker) -> Option<F::Output> {
    let mut context = Context::from_waker(waker);
    match task.as_mut().as_pin_mut()?.poll(&mut context) {
        Poll::Ready(output) => {
            task.set(None);
            Some(output)
        }
        Poll::Pending => None,
    }
}
