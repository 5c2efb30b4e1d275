//! What a server of NBD and its clients may have.

use std::time::Duration;

/// Longest data of one NBD request: what clients assume where they are told nothing.
pub const NBD_PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// Longest option of an NBD client: names have at most 4096 bytes, and there are not many in one.
pub const NBD_OPTION_BYTES_MAX: u32 = 64 << 10;

/// What an NBD client sent and nobody has looked at yet: the longest option, or many small requests. Data
/// of a write beyond this is read straight into its slot.
pub const NBD_STAGING_BYTES: usize = 128 << 10;

/// A write of so much data is large: to read its header alone, and then its data straight into its slot, costs a
/// system call more, and a copy less.
pub const NBD_LARGE_WRITE_BYTES: u64 = 32 << 10;

/// What is read of a client's bytes behind the data of a large write: some headers, and little data.
pub const NBD_HEADS_BYTES: usize = 4 << 10;

/// Data of reads that one NBD client may have under way or leave unread before no more of its requests are
/// taken. A read is let in while there is less, so one piece may come on top, or, where all of its data must
/// be one chunk, one longest request.
pub const NBD_CLIENT_BYTES_MAX: usize = 8 << 20;

/// Longest piece of an NBD request: one piece is in the processor's second cache when the guest, or the
/// socket, takes it.
pub const NBD_PIECE_BYTES_MAX: u32 = 128 << 10;

/// From this on a read's data go from the system's cache to the socket without being copied. Below, copying costs
/// less.
pub const NBD_PAGES_BYTES_MIN: u32 = 32 << 10;

/// Encrypted bytes that wait for room in an NBD client's socket.
pub const NBD_TLS_BYTES_MAX: usize = 256 << 10;

/// Pre-shared keys in a file: as many as clients at a time. Each connection has a copy of all of them, and all
/// names that a client gives, which may be thousands, are compared with all of these.
pub const NBD_KEYS_MAX: usize = NBD_CONNECTIONS_MAX;

/// Bytes of a file of pre-shared keys: as many of them, with long names.
pub const NBD_KEYS_FILE_BYTES_MAX: usize = 64 << 10;

/// Bytes that a pre-shared key has at least: 128 bits, as RFC 9257 demands. TLS shows whoever listens
/// enough to try out shorter ones.
pub const NBD_KEY_BYTES_MIN: usize = 16;

/// One read of an encrypted socket, where its size is ours to choose: the longest record.
pub const NBD_TLS_READ_BYTES: usize = 5 + (16 << 10) + 256;

/// Reads of an encrypted socket that bring no data before the other NBD clients have their turn: a handshake
/// and a large record take a few.
pub const NBD_TLS_READS_MAX: u32 = 8;

/// Bytes of such reads: a client that has a key can fill them with thousands of orders to change it.
pub const NBD_TLS_READS_BYTES_MAX: usize = 32 << 10;

/// Requests of all NBD clients of a device together that are in the guest's hands, or hold data.
pub const NBD_DEPTH: u16 = 128;

/// How long the NBD server looks for a client's next request before it sleeps: what a client takes to get
/// a reply and send the next request, and waking up costs about as much.
pub const NBD_LOOK_TIME: Duration = Duration::from_micros(100);

/// How often at most it sleeps at once after looking has not paid.
pub const NBD_SKIPS_MAX: u32 = 1023;

/// NBD clients at a time.
pub const NBD_CONNECTIONS_MAX: usize = 64;

/// How long an NBD client may haggle, or leave a reply unread. One that waits in peace may stay.
pub const NBD_CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// For how long an NBD client over TCP says nothing before the system asks whether it is there; then it asks six times,
/// and the connection ends where there is no answer for as long again.
pub const NBD_KEEPALIVE_TIME: Duration = Duration::from_secs(60);

/// Requests of one NBD client that are answered before the others have their turn.
pub const NBD_TURN_REQUESTS_MAX: u32 = 64;
