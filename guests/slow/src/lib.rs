//! `slow`: the RAM disk `memory`, each of whose reads and writes takes some time, beside the others: what a
//! disk behind a network looks like from above.
//!
//! Options: those of `memory`, and `delay-ms` (10).

#[path = "../../memory/src/disk.rs"]
mod disk;

use std::time::Duration;

use wasmblk_guest::{Disk, Errno, Info, OpenError, sleep};

struct Slow {
    memory: disk::Memory,
    delay: Duration,
}

impl Disk for Slow {
    fn open(options: &[(String, String)]) -> Result<(Slow, Info), OpenError> {
        let mut delay_ms = 10;
        let mut rest = Vec::new();
        for (key, value) in options {
            if key == "delay-ms" {
                let bad = || OpenError::BadOption(format!("delay-ms={value}: expected a number"));
                delay_ms = value.parse().map_err(|_| bad())?;
            } else {
                rest.push((key.clone(), value.clone()));
            }
        }
        let (memory, info) = disk::Memory::open(&rest)?;
        let delay = Duration::from_millis(delay_ms);
        Ok((Slow { memory, delay }, info))
    }

    async fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        sleep(self.delay).await;
        self.memory.read(offset, data).await
    }

    async fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        sleep(self.delay).await;
        self.memory.write(offset, data, fua).await
    }

    async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        self.memory.discard(offset, length).await
    }

    async fn write_zeroes(&self, offset: u64, length: u32, may: bool) -> Result<(), Errno> {
        self.memory.write_zeroes(offset, length, may).await
    }
}

wasmblk_guest::export_ring!(Slow);
