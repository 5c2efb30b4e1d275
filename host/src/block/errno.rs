//! Error numbers of the system, with one sign.

use std::fmt;

/// An error number as `errno(3)` counts it: positive, never zero. The minus sign that the kernel
/// wants is put on in `ublk/encode.rs` and nowhere else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(u16);

impl Errno {
    /// Input or output failed.
    pub const EIO: Errno = Errno(5);
    /// The request makes no sense.
    pub const EINVAL: Errno = Errno(22);
    /// No space left.
    pub const ENOSPC: Errno = Errno(28);
    /// The device is read-only.
    pub const EROFS: Errno = Errno(30);
    /// The medium has lost these blocks.
    pub const ENODATA: Errno = Errno(61);
    /// The blocks came back damaged.
    pub const EILSEQ: Errno = Errno(84);
    /// The device does not do that.
    pub const EOPNOTSUPP: Errno = Errno(95);
    /// Something did not answer in time.
    pub const ETIMEDOUT: Errno = Errno(110);

    /// What a store's error is to whoever asked the guest: those that say something about the store, and EIO
    /// for everything else.
    #[must_use]
    pub fn of_store(number: i32) -> Errno {
        match number {
            // A quota, or the largest file that there may be.
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Errno::ENOSPC,
            libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY => Errno::EOPNOTSUPP,
            libc::EROFS | libc::EPERM => Errno::EROFS,
            libc::ETIMEDOUT => Errno::ETIMEDOUT,
            libc::ENODATA => Errno::ENODATA,
            libc::EILSEQ => Errno::EILSEQ,
            _ => Errno::EIO,
        }
    }

    /// The number: 1 to 4095.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    fn name(self) -> &'static str {
        match self {
            Errno::EIO => "EIO",
            Errno::EINVAL => "EINVAL",
            Errno::ENOSPC => "ENOSPC",
            Errno::EROFS => "EROFS",
            Errno::ENODATA => "ENODATA",
            Errno::EILSEQ => "EILSEQ",
            Errno::EOPNOTSUPP => "EOPNOTSUPP",
            _ => "ETIMEDOUT",
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
