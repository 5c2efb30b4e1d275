//! The engine: how guests are compiled and run.

use wasmtime::{Config, Engine};
use wasmtime_environ::error::disable_backtrace;

use crate::error::{Error, Result};
use crate::limits;

/// The one configuration for all guests. Compiled guests are valid for exactly this.
///
/// # Errors
///
/// Where this processor lacks what wasmtime needs.
pub fn new_engine() -> Result<Engine> {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    // Not needed by component guests: memories beyond 4 GiB would have to move when they grow, and
    // relaxed SIMD computes differently on each machine.
    config.wasm_memory64(false);
    // The kernel and the host keep addresses in a guest's memory: it may grow, and never moves.
    config.memory_reservation(1 << 32);
    config.memory_may_move(false);
    config.wasm_relaxed_simd(false);
    config.wasm_backtrace_max_frames(Some(limits::STACK_FRAMES_MAX));
    config.max_wasm_stack(limits::GUEST_STACK_BYTES);
    // Errors can be the guest's to show (`wasi:io/error`): they have nothing of the host in them, whatever its
    // environment says.
    disable_backtrace();
    Engine::new(&config)
        .map_err(|why| Error::failed("wasmtime does not work on this machine").because(why))
}
