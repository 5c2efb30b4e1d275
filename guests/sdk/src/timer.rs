//! Waiting for some time.

use std::time::Duration;

use crate::operation::Operation;

const TIMER: u64 = 16;

/// Waits for about this long, in whole milliseconds, at most a day. Only with `export_ring!` and
/// `export_mapper!`: by `export_device!` the request ends with `NotSupported`. A request that waits for longer
/// than `--deadline` is the end of the guest.
pub async fn sleep(time: Duration) {
    let after_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Operation::new([TIMER, after_ms, 0, 0], false).await;
}
