//! Images of disks: a copy between a file and a device, whoever serves it.

mod claim;
mod copy;
mod end;
mod part;
mod word;

pub use copy::copy;
pub use end::{End, Role, cannot_open};
pub use part::Part;
pub use word::Word;
