//! Reads give what lies in their slot, writes are forgotten.

use wasmblk_guest::{Disk, Errno, Features, Info, OpenError, parse_size};

pub(crate) struct Null;

impl Disk for Null {
    fn open(options: &[(String, String)]) -> Result<(Null, Info), OpenError> {
        let mut info = Info::new(1 << 30);
        for (key, value) in options {
            info.size_bytes = match key.as_str() {
                "size" => parse_size(value)
                    .map_err(|why| OpenError::BadOption(format!("size={value}: {why}")))?,
                _ => {
                    let text = format!("unknown option '{key}'; null knows: size");
                    return Err(OpenError::BadOption(text));
                }
            };
        }
        info.features = Features::WRITE_THROUGH | Features::REPLICATED;
        info.discard_granularity_bytes = 4096;
        info.max_discard_bytes = 1 << 30;
        info.max_write_zeroes_bytes = 1 << 30;
        Ok((Null, info))
    }

    async fn read(&self, _offset: u64, _data: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    async fn write(&self, _offset: u64, _data: &[u8], _fua: bool) -> Result<(), Errno> {
        Ok(())
    }

    async fn discard(&self, _offset: u64, _length: u32) -> Result<(), Errno> {
        Ok(())
    }

    async fn write_zeroes(&self, _offset: u64, _length: u32, _may: bool) -> Result<(), Errno> {
        Ok(())
    }
}
