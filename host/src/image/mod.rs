//! Images of disks: a copy between a file and a device, whoever serves it.

mod copy;
mod end;
mod part;

pub use copy::{check_fits, copy};
pub use end::{End, Role, Word, cannot_open};
pub use part::Part;
