//! What stands in for `/dev/null` where there are no device nodes.

use std::io;
use std::os::fd::OwnedFd;

/// A file with nothing in it, for standard streams that nobody is to use: reading it ends at once, and writing to it is
/// refused as to a closed one, which `std` takes for done. It is made of nothing that a container may lack.
///
/// # Errors
///
/// Where there are no further file descriptors.
pub fn nothing() -> io::Result<OwnedFd> {
    // A pipe that nobody writes to, by its end for reading.
    io::pipe().map(|(reader, _)| reader.into())
}
