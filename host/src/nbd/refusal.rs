//! Why a request is refused, as an error number and in words.

use super::decode::Header;
use super::encode::{self, To};
use crate::block::{Errno, Geometry};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No such command, or none that was agreed on.
    Command,
    /// A flag that the command does not have, or that was not agreed on.
    Flags,
    /// It is outside of the device, not of whole blocks, or the device cannot be written.
    Range(Errno),
    /// The guest does not do that.
    Lacks,
    /// It would not be faster than writing.
    Slow,
    /// Longer than the limit that the client was told.
    TooLong,
    /// The guest's own answer.
    Guest(Errno),
}

impl Refusal {
    fn errno(self) -> Errno {
        match self {
            Refusal::Command | Refusal::Flags | Refusal::TooLong => Errno::EINVAL,
            Refusal::Lacks | Refusal::Slow => Errno::EOPNOTSUPP,
            Refusal::Range(errno) | Refusal::Guest(errno) => errno,
        }
    }

    /// Appends the reply.
    pub(super) fn reply(self, output: &mut Vec<u8>, to: To, header: &Header, geometry: &Geometry) {
        let Header {
            command,
            flags,
            offset,
            length,
            ..
        } = *header;
        let mut say = |text: std::fmt::Arguments<'_>| encode::error(output, to, self.errno(), text);
        match self {
            Refusal::Command => say(format_args!("command {command} is not known here")),
            Refusal::Flags => say(format_args!(
                "command {command} does not take all of the flags {flags:#x}"
            )),
            Refusal::Range(Errno::EROFS) => say(format_args!("the device is read-only")),
            Refusal::Range(_) => say(format_args!(
                "{length} bytes at {offset}: not whole blocks of {} bytes inside a device of {} bytes",
                geometry.logical_block_bytes, geometry.size_bytes
            )),
            Refusal::Lacks => say(format_args!("the guest does not do that")),
            Refusal::Slow => say(format_args!(
                "zeros are no faster here than other data: the guest has no write-zeroes"
            )),
            Refusal::TooLong => say(format_args!(
                "{length} bytes are more than one request may have"
            )),
            Refusal::Guest(errno) => say(format_args!("the guest answered {errno}")),
        }
    }
}
