//! The driver's own language: `include/uapi/linux/ublk_cmd.h`, as far as it is used here.
//! Names are the header's, without the prefix.

use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Control commands, for `/dev/ublk-control`: `_IOR` or `_IOWR('u', nr, struct ublksrv_ctrl_cmd)`.
pub mod control {
    #![expect(missing_docs, reason = "UBLK_U_CMD_ of the header")]
    pub const GET_QUEUE_AFFINITY: u32 = 0x8020_7501;
    pub const GET_DEV_INFO: u32 = 0x8020_7502;
    pub const ADD_DEV: u32 = 0xc020_7504;
    pub const START_DEV: u32 = 0xc020_7506;
    pub const STOP_DEV: u32 = 0xc020_7507;
    pub const SET_PARAMS: u32 = 0xc020_7508;
    pub const START_USER_RECOVERY: u32 = 0xc020_7510;
    pub const END_USER_RECOVERY: u32 = 0xc020_7511;
    pub const GET_DEV_INFO2: u32 = 0x8020_7512;
    pub const GET_FEATURES: u32 = 0x8020_7513;
    pub const DEL_DEV: u32 = 0xc020_7505;
    pub const DEL_DEV_ASYNC: u32 = 0x8020_7514;
    pub const UPDATE_SIZE: u32 = 0xc020_7515;
    pub const QUIESCE_DEV: u32 = 0xc020_7516;
    pub const TRY_STOP_DEV: u32 = 0xc020_7517;
}

/// I/O commands, for `/dev/ublkcN`: `_IOWR('u', nr, struct ublksrv_io_cmd)`.
pub mod io {
    #![expect(missing_docs, reason = "UBLK_U_IO_ of the header")]
    pub const FETCH_REQ: u32 = 0xc010_7520;
    pub const COMMIT_AND_FETCH_REQ: u32 = 0xc010_7521;
}

/// Features of the driver and of a device (`UBLK_F_`).
pub mod feature {
    #![expect(missing_docs, reason = "UBLK_F_ of the header")]
    pub const SUPPORT_ZERO_COPY: u64 = 1 << 0;
    pub const USER_RECOVERY: u64 = 1 << 3;
    pub const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    pub const UNPRIVILEGED_DEV: u64 = 1 << 5;
    pub const CMD_IOCTL_ENCODE: u64 = 1 << 6;
    pub const USER_COPY: u64 = 1 << 7;
    pub const UPDATE_SIZE: u64 = 1 << 10;
    pub const AUTO_BUF_REG: u64 = 1 << 11;
    pub const QUIESCE: u64 = 1 << 12;
    pub const SAFE_STOP_DEV: u64 = 1 << 17;
    pub const NO_AUTO_PART_SCAN: u64 = 1 << 18;

    /// All names, by bit.
    pub const NAMES: [&str; 21] = [
        "SUPPORT_ZERO_COPY",
        "URING_CMD_COMP_IN_TASK",
        "NEED_GET_DATA",
        "USER_RECOVERY",
        "USER_RECOVERY_REISSUE",
        "UNPRIVILEGED_DEV",
        "CMD_IOCTL_ENCODE",
        "USER_COPY",
        "ZONED",
        "USER_RECOVERY_FAIL_IO",
        "UPDATE_SIZE",
        "AUTO_BUF_REG",
        "QUIESCE",
        "PER_IO_DAEMON",
        "BUF_REG_OFF_DAEMON",
        "BATCH_IO",
        "INTEGRITY",
        "SAFE_STOP_DEV",
        "NO_AUTO_PART_SCAN",
        "SHMEM_ZC",
        "IO_DESC_SIZE",
    ];
}

/// States of a device (`UBLK_S_DEV_`).
pub mod state {
    #![expect(missing_docs, reason = "UBLK_S_DEV_ of the header")]
    pub const DEAD: u16 = 0;
    pub const LIVE: u16 = 1;
}

/// Requests (`UBLK_IO_OP_`) and their flags (`UBLK_IO_F_`), in `IoDesc::op_flags`.
pub mod op {
    #![expect(missing_docs, reason = "UBLK_IO_ of the header")]
    pub const READ: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const FLUSH: u8 = 2;
    pub const DISCARD: u8 = 3;
    pub const WRITE_ZEROES: u8 = 5;
    pub const F_FUA: u32 = 1 << 13;
    pub const F_NOUNMAP: u32 = 1 << 15;
    pub const F_NEED_REG_BUF: u32 = 1 << 17;
}

/// Attributes of a device (`UBLK_ATTR_`).
pub mod attr {
    #![expect(missing_docs, reason = "UBLK_ATTR_ of the header")]
    pub const READ_ONLY: u32 = 1 << 0;
    pub const ROTATIONAL: u32 = 1 << 1;
    pub const VOLATILE_CACHE: u32 = 1 << 2;
    pub const FUA: u32 = 1 << 3;
}

/// `UBLK_PARAM_TYPE_`: which parts of [`Params`] are given.
pub mod param {
    #![expect(missing_docs, reason = "UBLK_PARAM_TYPE_ of the header")]
    pub const BASIC: u32 = 1 << 0;
    pub const DISCARD: u32 = 1 << 1;
    pub const DMA_ALIGN: u32 = 1 << 4;
}

/// The sector of the block layer, whatever the device's block.
pub const SECTOR_SHIFT: u32 = 9;

/// `UBLK_IO_RES_ABORT` (`-ENODEV`): the tag is gone for good.
pub const RES_ABORT: i32 = -19;

/// `struct ublksrv_ctrl_cmd`. Address and length of the data are filled in by `sys::ring`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub struct CtrlCmd {
    /// The device, or `u32::MAX` for none.
    pub dev_id: u32,
    /// The queue, or `u16::MAX` for none.
    pub queue_id: u16,
    /// Length of the data in bytes.
    pub len: u16,
    /// Address of the data.
    pub addr: u64,
    /// Inline argument.
    pub data: u64,
    /// Length of the device path that begins the data, 0 for none.
    pub dev_path_len: u16,
    /// Unused.
    pub pad: u16,
    /// Unused.
    pub reserved: u32,
}

/// `struct ublksrv_ctrl_dev_info`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    IntoBytes,
    FromBytes,
    Immutable,
    Serialize,
    Deserialize,
)]
#[repr(C)]
#[expect(missing_docs, reason = "fields of the header")]
pub struct DevInfo {
    pub nr_hw_queues: u16,
    pub queue_depth: u16,
    pub state: u16,
    pub io_desc_size: u16,
    pub max_io_buf_bytes: u32,
    pub dev_id: u32,
    pub ublksrv_pid: i32,
    pub pad1: u32,
    pub flags: u64,
    pub ublksrv_flags: u64,
    pub owner_uid: u32,
    pub owner_gid: u32,
    pub reserved1: u64,
    pub reserved2: u64,
}

impl DevInfo {
    /// Whether the data of requests is registered with the ring instead of copied.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.flags & feature::AUTO_BUF_REG != 0
    }

    /// Whether its owner has no privilege, and its commands have to name it by a path.
    #[must_use]
    pub fn is_unprivileged(&self) -> bool {
        self.flags & feature::UNPRIVILEGED_DEV != 0
    }

    /// Whether it stays when its server ends before its time.
    #[must_use]
    pub fn can_be_taken_up(&self) -> bool {
        self.flags & feature::USER_RECOVERY != 0
    }

    /// How the queues are shared out among workers: one has all, or each has one.
    #[must_use]
    pub fn shares(&self, replicated: bool) -> Vec<Vec<u16>> {
        let queues = 0..self.nr_hw_queues;
        if replicated {
            queues.map(|queue| vec![queue]).collect()
        } else {
            vec![queues.collect()]
        }
    }
}

/// `struct ublksrv_io_desc`: one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct IoDesc {
    /// Operation in bits 0 to 7, flags above.
    pub op_flags: u32,
    /// Length in sectors.
    pub nr_sectors: u32,
    /// Offset in sectors.
    pub start_sector: u64,
    /// Address of the tag's buffer.
    pub addr: u64,
}

/// `struct ublksrv_io_cmd`: goes into a FETCH or COMMIT.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "fields of the header")]
pub struct IoCmd {
    pub q_id: u16,
    pub tag: u16,
    pub result: i32,
    pub addr: u64,
}

/// Where the data of requests lies in `/dev/ublkcN` for `pread` and `pwrite` (`UBLKSRV_IO_BUF_OFFSET`,
/// `UBLK_TAG_OFF`, `UBLK_QID_OFF`), in a device with [`feature::USER_COPY`].
#[must_use]
pub fn data_offset(queue: u16, tag: u16) -> u64 {
    0x8000_0000 + (u64::from(queue) << 41) + (u64::from(tag) << 25)
}

/// `struct ublk_auto_buf_reg` as the kernel takes it in the entry's `addr`: the index of the buffer, and that
/// a request whose data cannot be registered comes with [`op::F_NEED_REG_BUF`] (`UBLK_AUTO_BUF_REG_FALLBACK`).
#[must_use]
pub fn auto_buf_reg(index: u16) -> u64 {
    u64::from(index) | 1 << 16
}

/// `struct ublk_params` up to and with `struct ublk_param_dma_align`; the kernel takes shorter ones
/// (`len` says how short). Zoned devices there are none.
#[derive(Clone, Copy, Debug, Default, IntoBytes, FromBytes, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "fields of the header")]
pub struct Params {
    pub len: u32,
    pub types: u32,
    // struct ublk_param_basic
    pub attrs: u32,
    pub logical_bs_shift: u8,
    pub physical_bs_shift: u8,
    pub io_opt_shift: u8,
    pub io_min_shift: u8,
    pub max_sectors: u32,
    pub chunk_sectors: u32,
    pub dev_sectors: u64,
    pub virt_boundary_mask: u64,
    // struct ublk_param_discard
    pub discard_alignment: u32,
    pub discard_granularity: u32,
    pub max_discard_sectors: u32,
    pub max_write_zeroes_sectors: u32,
    pub max_discard_segments: u16,
    pub reserved0: u16,
    // struct ublk_param_devt and struct ublk_param_zoned
    pub unused: [u32; 12],
    // struct ublk_param_dma_align
    pub dma_alignment: u32,
}

// The sizes and offsets that the header compiles to.
const _: () = {
    assert!(size_of::<CtrlCmd>() == 32);
    assert!(size_of::<DevInfo>() == 64);
    assert!(size_of::<IoDesc>() == 24);
    assert!(size_of::<IoCmd>() == 16);
    assert!(size_of::<Params>() == 112);
    assert!(std::mem::offset_of!(Params, dma_alignment) == 108);
    assert!(std::mem::offset_of!(Params, attrs) == 8);
    assert!(std::mem::offset_of!(Params, discard_alignment) == 40);
};
