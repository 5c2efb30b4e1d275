//! `null`: reads give zeros, writes are accepted and forgotten. It does nothing, so what it costs is
//! the cost of the path to it.
//!
//! Options: `size` in bytes, with K, M, G or T (default 1G).

wit_bindgen::generate!({ world: "disk-with-trim", path: "../../wit" });

use exports::wasmblk::block::{device, trim};
use wasmblk::block::types::Errno;
use wasmblk_guest::parse_size;

struct Null;

impl device::Guest for Null {
    fn open(options: Vec<(String, String)>) -> Result<device::Geometry, device::OpenError> {
        let mut size_bytes = 1 << 30;
        for (key, value) in &options {
            size_bytes = match key.as_str() {
                "size" => parse_size(value)
                    .map_err(|why| device::OpenError::BadOption(format!("size={value}: {why}")))?,
                _ => {
                    let text = format!("unknown option '{key}'; null knows: size");
                    return Err(device::OpenError::BadOption(text));
                }
            };
        }
        Ok(device::Geometry {
            size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            max_transfer_bytes: 0,
            features: device::Features::WRITE_THROUGH | device::Features::REPLICATED,
        })
    }

    fn read(_offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        Ok(vec![0; length as usize])
    }

    fn write(_offset: u64, _data: Vec<u8>, _fua: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn flush() -> Result<(), Errno> {
        Ok(())
    }
}

impl trim::Guest for Null {
    fn limits() -> trim::TrimLimits {
        trim::TrimLimits {
            granularity_bytes: 4096,
            max_discard_bytes: 1 << 30,
            max_write_zeroes_bytes: 1 << 30,
        }
    }

    fn discard(_offset: u64, _length: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn write_zeroes(_offset: u64, _length: u32, _may_discard: bool) -> Result<(), Errno> {
        Ok(())
    }
}

export!(Null);
