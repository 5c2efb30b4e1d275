//! The hostile guests themselves, for the tests and for `bench neighbour`.

pub(crate) mod case;
pub(crate) mod component;
pub(crate) mod device;
pub(crate) mod files;
pub(crate) mod greedy;
pub(crate) mod handles;
pub(crate) mod open_files;
pub(crate) mod ring;
pub(crate) mod spenders;
pub(crate) mod start;
pub(crate) mod straight;
pub(crate) mod text;
