//! Runs the futures of requests, one for each tag. Each tag has room for its future, so nothing is allocated
//! for a request.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

thread_local! {
    /// Tags whose futures can go on.
    static READY: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

struct Tag(usize);

impl Wake for Tag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        READY.with_borrow_mut(|ready| ready.push(self.0));
    }
}

pub(crate) struct Executor<F> {
    tasks: Vec<Pin<Box<Option<F>>>>,
    wakers: Vec<Waker>,
    /// Kept for its room.
    woken: Vec<usize>,
}

impl<F: Future> Executor<F> {
    pub(crate) fn new(tags: usize) -> Executor<F> {
        Executor {
            tasks: (0..tags).map(|_| Box::pin(None)).collect(),
            wakers: (0..tags)
                .map(|tag| Waker::from(Arc::new(Tag(tag))))
                .collect(),
            woken: Vec::new(),
        }
    }

    /// Begins a tag's future; gives what it comes to if it does not wait.
    pub(crate) fn begin(&mut self, tag: usize, future: F) -> Option<F::Output> {
        self.tasks[tag].as_mut().set(Some(future));
        self.go_on(tag)
    }

    /// Goes on with futures that were woken; `done` is called for each that ends.
    pub(crate) fn go_on_with_woken(&mut self, mut done: impl FnMut(usize, F::Output)) {
        // Who wakes itself again waits for the next call.
        READY.with_borrow_mut(|ready| std::mem::swap(ready, &mut self.woken));
        for index in 0..self.woken.len() {
            let tag = self.woken[index];
            if let Some(output) = self.go_on(tag) {
                done(tag, output);
            }
        }
        self.woken.clear();
    }

    /// Whether a future has woken itself.
    pub(crate) fn has_woken() -> bool {
        READY.with_borrow(|ready| !ready.is_empty())
    }

    fn go_on(&mut self, tag: usize) -> Option<F::Output> {
        let mut task = self.tasks[tag].as_mut();
        let mut context = Context::from_waker(&self.wakers[tag]);
        match task.as_mut().as_pin_mut()?.poll(&mut context) {
            Poll::Ready(output) => {
                task.set(None);
                Some(output)
            }
            Poll::Pending => None,
        }
    }
}
