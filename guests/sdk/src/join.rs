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

/// Waits for all; gives the first error. It takes memory for them, where there is more than one.
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
    let futures = [first, second].into_iter().chain(futures);
    let mut waiting: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut outcome = Ok(());
    poll_fn(|context| {
        waiting.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(result) => {
                outcome = outcome.and(result);
                false
            }
            Poll::Pending => true,
        });
        if waiting.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outcome
}
