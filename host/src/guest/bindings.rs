//! The WIT as Rust, and nothing else.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "any-disk",
});
