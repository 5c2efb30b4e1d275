//! `file`: a file or block device as it is. The guest sees none of the data.
//!
//! Store `data`: the file or device. Options: `block` the logical block in bytes (512, or
//! what the store takes).

use wasmblk_guest::{
    Answer, Data, Errno, Features, Info, Mapper, OpenError, Store, export_mapper, parse_size,
};

struct File(Store);

impl Mapper for File {
    fn open(options: &[(String, String)]) -> Result<(File, Info), OpenError> {
        let mut block = 0;
        for (key, value) in options {
            if key != "block" {
                let text = format!("unknown option '{key}'; file knows: block");
                return Err(OpenError::BadOption(text));
            }
            block = parse_size(value)
                .map_err(|why| OpenError::BadOption(format!("block={value}: {why}")))?;
        }
        let store = Store::need("data")?;
        // A store that passes by the system's cache takes whole blocks only.
        let block = block.max(store.align_bytes.into()).max(512);
        let logical_block_bytes = block.try_into().unwrap_or(u32::MAX);
        let info = Info {
            logical_block_bytes,
            physical_block_bytes: store.block_bytes.max(logical_block_bytes),
            max_transfer_bytes: 1 << 20,
            max_discard_bytes: 1 << 30,
            max_write_zeroes_bytes: 1 << 30,
            // All that there is lies in the store, for any number of instances.
            features: Features::FUA | Features::REPLICATED | Features::RESTARTABLE,
            // What is left of a last block is not used.
            ..Info::new(store.size_bytes / block * block)
        };
        Ok((File(store), info.with_read_only(store.read_only)))
    }

    async fn read(&self, offset: u64, data: Data) -> Result<Answer, Errno> {
        Ok(self.0.answer_read(offset, data))
    }

    async fn write(&self, offset: u64, data: Data, fua: bool) -> Result<Answer, Errno> {
        Ok(self.0.answer_write(offset, data, fua))
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.0.flush().await
    }

    async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        self.0.discard(offset, length).await
    }

    async fn write_zeroes(&self, offset: u64, length: u32, may_discard: bool) -> Result<(), Errno> {
        self.0.write_zeroes(offset, length, may_discard).await
    }
}

export_mapper!(File);
