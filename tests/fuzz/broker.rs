//! Messages of the broker: what can be read is the same when it is sent again, and what is asked for is checked.

use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmblk::broker::wire::{Command, Reply, Request, decode, encode};

pub(crate) fn target(bytes: &[u8]) {
    if let Some(Request::Device(wanted)) = again::<Request>(bytes)
        && let Ok(geometry) = wanted.check()
    {
        assert!(geometry.size_bytes > 0 && geometry.logical_block_bytes.is_power_of_two());
        assert!(wanted.queues > 0 && wanted.depth > 0);
    }
    if let Some(Request::Serve { config }) = again::<Request>(bytes) {
        // Only that it comes to an end.
        let _ = config.check();
    }
    again::<Command>(bytes);
    again::<Reply>(bytes);
}

fn again<T: DeserializeOwned + Serialize + PartialEq>(bytes: &[u8]) -> Option<T> {
    let message = decode::<T>(bytes).ok()?;
    let sent = encode(&message).expect("what was read can be sent");
    let back = decode::<T>(&sent).expect("what was sent can be read");
    assert!(back == message, "it is the same");
    Some(message)
}
