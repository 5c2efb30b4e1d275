//! What the functions of wasmtime-wasi run in. They are asynchronous, and would start threads for that, which a
//! confined process cannot. But what guests are granted is done at once, so this has neither threads nor files.

use std::cell::OnceCell;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use tokio::runtime::{Builder, EnterGuard, Runtime};

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

thread_local! {
    /// That this thread is in it; until its end, where it is too late for leaving.
    static INSIDE: OnceCell<ManuallyDrop<EnterGuard<'static>>> = const { OnceCell::new() };
}

/// Makes it, once.
pub(super) fn make() -> io::Result<()> {
    if RUNTIME.get().is_none() {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        // Another thread may have been faster, and its is as good.
        let _ = RUNTIME.set(runtime);
    }
    Ok(())
}

/// Enters it with this thread, before each call of a guest into WASI.
pub(in crate::guest) fn enter() {
    if let Some(runtime) = RUNTIME.get() {
        INSIDE.with(|inside| {
            inside.get_or_init(|| ManuallyDrop::new(runtime.enter()));
        });
    }
}
