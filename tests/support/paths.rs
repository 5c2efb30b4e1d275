//! Where things lie.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// What cargo builds.
#[must_use]
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The program, as `cargo xtask` built it.
#[must_use]
pub fn wasmblk() -> PathBuf {
    target().join("debug/wasmblk")
}

/// A guest, as `cargo xtask` built it.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    target().join("guests").join(name).with_extension("wasm")
}

/// Everything that is downloaded or built for the test bed. It can be deleted at will.
///
/// # Errors
///
/// Where there is neither `WASMBLK_TEST_CACHE` nor a home.
pub fn cache() -> Result<PathBuf> {
    let of = |variable: &str| env::var_os(variable).map(PathBuf::from);
    of("WASMBLK_TEST_CACHE")
        .or_else(|| of("XDG_CACHE_HOME").map(|folder| folder.join("wasmblk-tests")))
        .or_else(|| of("HOME").map(|home| home.join(".cache/wasmblk-tests")))
        .context("neither HOME nor WASMBLK_TEST_CACHE is set")
}
