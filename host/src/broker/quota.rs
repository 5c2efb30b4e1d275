//! How much a user may have. Pure.

/// What a user may have at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Devices.
    pub devices: u64,
    /// Queues x depth x longest transfer, of all his devices together.
    pub memory_bytes: u64,
}

/// What a user has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Devices.
    pub devices: u64,
    /// Queues x depth x longest transfer, of all of them.
    pub memory_bytes: u64,
}

impl Quota {
    /// No limit.
    pub const UNLIMITED: Quota = Quota {
        devices: u64::MAX,
        memory_bytes: u64::MAX,
    };

    /// Whether somebody who has `used` may have one more device that counts for `memory_bytes`.
    ///
    /// # Errors
    ///
    /// Says what would be too much, and how much there may be.
    pub fn admits(&self, used: Use, memory_bytes: u64) -> Result<(), String> {
        if used.devices >= self.devices {
            return Err(format!(
                "you have {} devices by this broker, and may have {}; 'wasmblk del' one",
                used.devices, self.devices
            ));
        }
        if used.memory_bytes.saturating_add(memory_bytes) > self.memory_bytes {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(format!(
                "this device counts for {} MiB (queues x depth x longest transfer, and with --hosted the guest's \
                 --memory-mib); you have {} of the {} MiB that you may have: a smaller --depth, --transfer-kib or \
                 --memory-mib needs less",
                mib(memory_bytes),
                mib(used.memory_bytes),
                mib(self.memory_bytes)
            ));
        }
        Ok(())
    }
}

impl FromIterator<u64> for Use {
    /// The sum of devices that count for these bytes.
    fn from_iter<I: IntoIterator<Item = u64>>(all: I) -> Use {
        all.into_iter().fold(Use::default(), |sum, bytes| Use {
            devices: sum.devices.saturating_add(1),
            memory_bytes: sum.memory_bytes.saturating_add(bytes),
        })
    }
}
