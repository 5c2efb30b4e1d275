//! Waiting for several things at a time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use crate::Errno;

/// Waits for both; gives the first error.
///
/// # Errors
///
/// Those of the two.
pub async fn both(
    first: impl Future<Output = Result<(), Errno>>,
    second: impl Future<Output = Result<(), Errno>>,
) -> Result<(), Errno> {
    let (first, second) = each(first, second).await;
    first.and(second)
}

/// Waits for both; gives what each came to.
pub async fn each<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut one, mut other) = (None, None);
    poll_fn(|context| {
        if one.is_none()
            && let Poll::Ready(output) = first.as_mut().poll(context)
        {
            one = Some(output);
        }
        if other.is_none()
            && let Poll::Ready(output) = second.as_mut().poll(context)
        {
            other = Some(output);
        }
        match (one.take(), other.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            (first, second) => {
                (one, other) = (first, second);
                Poll::Pending
            }
        }
    })
    .await
}

/// How many of them [`all`] has under way at a time: each time that one goes on, all of these are asked.
const AT_A_TIME: usize = 64;

/// Waits for all, some of them at a time; gives the first error. It takes memory for these, where there is more
/// than one.
///
/// # Errors
///
/// Those of all.
pub async fn all<F: Future<Output = Result<(), Errno>>>(
    futures: impl IntoIterator<Item = F>,
) -> Result<(), Errno> {
    let mut futures = futures.into_iter();
    let Some(first) = futures.next() else {
        return Ok(());
    };
    let Some(second) = futures.next() else {
        return first.await;
    };
    let mut futures = [first, second].into_iter().chain(futures).map(Box::pin);
    let mut waiting: Vec<Pin<Box<F>>> = Vec::new();
    let mut outcome = Ok(());
    poll_fn(|context| {
        let mut ends = |future: &mut Pin<Box<F>>| match future.as_mut().poll(context) {
            Poll::Ready(result) => {
                outcome = outcome.and(result);
                true
            }
            Poll::Pending => false,
        };
        waiting.retain_mut(|future| !ends(future));
        while waiting.len() < AT_A_TIME
            && let Some(mut future) = futures.next()
        {
            if !ends(&mut future) {
                waiting.push(future);
            }
        }
        if waiting.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outcome
}
