//! What the functions of wasmtime-wasi run in. They are asynchronous, and would start threads for that, which a
//! confined process cannot. What is done at once has neither threads nor files; the network has one thread, which is
//! started in time.

use std::cell::OnceCell;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;
use std::sync::mpsc::channel;

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

use crate::confine::for_thread;

static AT_ONCE: OnceLock<Runtime> = OnceLock::new();
static NETWORK: OnceLock<Runtime> = OnceLock::new();

/// That a thread is in one of them; until its end, where it is too late for leaving.
type Inside = OnceCell<ManuallyDrop<EnterGuard<'static>>>;

thread_local! {
    static INSIDE: Inside = const { OnceCell::new() };
    static INSIDE_NETWORK: Inside = const { OnceCell::new() };
}

/// Makes it, once; with a network for guests that connect to some `ports`.
pub(super) fn make(ports: Vec<u16>) -> io::Result<()> {
    let network = !ports.is_empty();
    let place = if network { &NETWORK } else { &AT_ONCE };
    if place.get().is_none() {
        let runtime = if network {
            with_thread(ports)?
        } else {
            Builder::new_current_thread().enable_time().build()?
        };
        // Another thread may have been faster, and its is as good.
        let _ = place.set(runtime);
    }
    Ok(())
}

/// With one thread, which has given up what it does not need when this returns.
fn with_thread(ports: Vec<u16>) -> io::Result<Runtime> {
    let (begin, begun) = channel();
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("network")
        .on_thread_start(move || {
            for_thread(&ports);
            let _ = begin.send(());
        })
        .enable_all()
        .build()?;
    let _ = begun.recv();
    Ok(runtime)
}

/// Enters it with this thread, before each call of a guest into WASI.
pub(in crate::guest) fn enter(network: bool) {
    let (place, inside) = if network {
        (&NETWORK, &INSIDE_NETWORK)
    } else {
        (&AT_ONCE, &INSIDE)
    };
    if let Some(runtime) = place.get() {
        inside.with(|inside| {
            inside.get_or_init(|| ManuallyDrop::new(runtime.enter()));
        });
    }
}

/// Where there is somebody who says when what is waited for is there.
pub(super) fn network() -> Option<&'static Handle> {
    NETWORK.get().map(Runtime::handle)
}
