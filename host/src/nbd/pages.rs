//! Large reads that are answered by the pages of a file, as they are in the system's cache: from there to the socket,
//! nobody copies them.

use super::pool::Pool;
use super::server::Client;
use crate::block::{Memory, Transfer, Work};
use crate::limits;
use crate::sys::Blocking;

/// Carries out a transfer that way, if that is possible: what is not in the cache is read as any other, and so are
/// errors.
pub(super) fn take(
    clients: &[Option<Client>],
    pool: &mut Pool,
    carrier: &Blocking,
    transfer: &Transfer,
) -> bool {
    let Memory::Request(slot, 0) = transfer.memory else {
        return false;
    };
    let owner = pool.owner(slot);
    // A guest may look at data, or change them, until the request is answered.
    let is_answer = transfer.answers && transfer.length == owner.bytes;
    let is_large = transfer.work == Work::Read && transfer.length >= limits::NBD_PAGES_BYTES_MIN;
    if !is_answer || !is_large {
        return false;
    }
    let client = clients[owner.client]
        .as_ref()
        .map(|client| &client.connection);
    let takes = client.is_some_and(|connection| {
        connection.serial == owner.serial && connection.takes_pages(owner.operation)
    });
    let file = carrier.cached_file(transfer.store).filter(|_| takes);
    file.is_some_and(|file| pool.take_pages(slot, file, transfer.offset))
}
