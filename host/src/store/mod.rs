//! What an operator grants to a guest: files and block devices, by name.

mod grant;
mod open;
mod shape;

pub use grant::Grant;
pub(crate) use grant::is_name;
pub use open::{Store, Stores, zeroing};
pub use shape::Shape;
