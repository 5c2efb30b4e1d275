//! The WIT as Rust, once for each contract; both share the types and what the host gives.

#![allow(missing_docs, reason = "generated")]

wit_bindgen::generate!({
    world: "ring-disk",
    path: "../../wit",
    pub_export_macro: true,
    export_macro_name: "export_ring",
    default_bindings_module: "wasmblk_guest::bindings",
});

pub mod device {
    wit_bindgen::generate!({
        world: "disk-with-trim",
        path: "../../wit",
        pub_export_macro: true,
        export_macro_name: "export_device",
        default_bindings_module: "wasmblk_guest::bindings::device",
        with: {
            "wasmblk:block/types@0.1.0": super::wasmblk::block::types,
            "wasmblk:block/host@0.1.0": super::wasmblk::block::host,
            "wasmblk:block/store@0.1.0": super::wasmblk::block::store,
        },
    });
}
