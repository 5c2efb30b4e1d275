//! `file`: a file or block device as it is. The guest sees none of the data.
//!
//! Store `data`: the file or device. Options: `block` the logical block in bytes (512, or
//! what the store takes).

use wasmblk_guest::{
    Answer, Data, Errno, Features, Info, Mapper, OpenError, Options, Store, export_mapper,
};

struct File(Store);

impl Mapper for File {
    fn open(options: &[(String, String)]) -> Result<(File, Info), OpenError> {
        let options = Options::new("file", &["block"], options)?;
        let store = Store::need("data")?;
        let block = options.block([&store])?;
        let info = Info {
            logical_block_bytes: block,
            physical_block_bytes: store.block_bytes.max(block),
            max_transfer_bytes: 1 << 20,
            max_discard_bytes: 1 << 30,
            max_write_zeroes_bytes: 1 << 30,
            // All that there is lies in the store, for any number of instances.
            features: Features::FUA | Features::REPLICATED | Features::RESTARTABLE,
            // What is left of a last block is not used.
            ..Info::new(store.size_bytes / u64::from(block) * u64::from(block))
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
