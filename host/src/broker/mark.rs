//! The number that the kernel keeps with a brokered device (`ublksrv_flags`): whose it is, for the next broker, and
//! which it is, for numbers of devices are used again. Pure.

/// In its first 16 bits: a broker's device.
const BROKER: u64 = 0x5742 << 48;

/// The mark of a user's device. Devices that may have the same number one after the other have different makers.
pub(super) fn new(uid: u32, maker: u32) -> u64 {
    BROKER | u64::from(maker & 0xffff) << 32 | u64::from(uid)
}

/// Whose device it is; `None` where it is no broker's.
pub(super) fn owner(mark: u64) -> Option<u32> {
    let is_ours = mark & (0xffff << 48) == BROKER;
    is_ours.then(|| u32::try_from(mark & u64::from(u32::MAX)).unwrap_or(0))
}
