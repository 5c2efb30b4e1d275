//! What udev is told of devices: rules that keep it from looking at what is on them, and which of them it may trust.

mod rules;
mod trust;

pub use rules::{FOLDER, Installed, install, installed, rules};
pub use trust::{Trust, forget_gone};
