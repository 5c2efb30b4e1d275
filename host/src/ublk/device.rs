//! One device, from ADD to DELETE. The order of the steps is the kernel's.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use rustix::fs::Access;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::abi::{DevInfo, feature};
use super::control::Control;
use super::node::{block_path, open_char, own_node, wait_for_node};
use super::{encode, holders, scheduler};
use crate::block::Geometry;
use crate::error::{Context, Error, Result};

/// What a device is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its number; `None` lets the kernel choose.
    pub id: Option<u32>,
    /// Hardware queues; the kernel gives no more than there are processors.
    pub queues: u16,
    /// Requests in flight on each.
    pub depth: u16,
    /// How the data of requests is to come and go.
    pub data_path: DataPath,
    /// Whether nobody here has to see it.
    pub hidden: bool,
    /// Whether it is to be one of a user without privilege.
    pub unprivileged: bool,
    /// Whether it stays when its server ends before its time: requests wait then, those that the server had as well,
    /// until a further one has taken it up.
    pub recover: bool,
    /// What data must lie at multiples of in memory, in bytes, to go to the stores as it is.
    pub align_bytes: u32,
    /// A number that the kernel keeps with the device for whoever made it.
    pub mark: u64,
}

/// How the data of requests comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DataPath {
    /// As fast as guest and kernel allow.
    Auto,
    /// The kernel copies it once.
    Copy,
    /// It does not leave the kernel: for guests that do not look at it.
    ZeroCopy,
}

/// What a device needs for data that stays in the kernel: it is registered with the ring as it comes, and can
/// be copied for what is not from or to a store.
const ZERO_COPY: u64 = feature::SUPPORT_ZERO_COPY | feature::AUTO_BUF_REG | feature::USER_COPY;

/// Buffers that a ring can have registered (`IORING_MAX_REG_BUFFERS` in `io_uring/rsrc.h`).
const REGISTERED_MAX: u32 = 1 << 14;

/// The features for the data path that is asked for.
fn zero_copy(control: &Control, spec: &Spec, geometry: &Geometry) -> Result<u64> {
    let queues = if geometry.replicated { 1 } else { spec.queues };
    let fits = u32::from(queues) * u32::from(spec.depth) <= REGISTERED_MAX;
    let possible = control.features() & ZERO_COPY == ZERO_COPY && fits;
    match spec.data_path {
        DataPath::Copy => Ok(0),
        DataPath::ZeroCopy if spec.unprivileged => Err(Error::usage(
            "--data-path zero-copy: the kernel has it for root's devices only; 'auto' copies for --unprivileged",
        )),
        _ if spec.unprivileged => Ok(0),
        DataPath::Auto if spec.hidden && possible => Ok(ZERO_COPY),
        DataPath::Auto => Ok(0),
        DataPath::ZeroCopy if !spec.hidden => Err(Error::usage(
            "--data-path zero-copy: this guest looks at the data of requests; 'auto' lets it",
        )),
        DataPath::ZeroCopy if !fits => Err(Error::usage(format!(
            "--data-path zero-copy: at most {REGISTERED_MAX} requests of one instance; a smaller --depth has fewer"
        ))),
        DataPath::ZeroCopy if !possible => Err(Error::failed(
            "--data-path zero-copy: the kernel's ublk driver has no AUTO_BUF_REG, which needs Linux 6.16; \
             'auto' copies there",
        )),
        DataPath::ZeroCopy => Ok(ZERO_COPY),
    }
}

/// A device that exists; once started, it has a disk.
#[derive(Debug)]
pub struct Device {
    control: Control,
    info: DevInfo,
    /// Of an unprivileged device: by it commands name the device.
    node: Option<File>,
    char_device: Option<Arc<File>>,
    /// It was taken up, and has not been started again.
    recovering: bool,
}

impl Device {
    /// Adds a device and sets its parameters: after this there is `/dev/ublkcN`, open for us.
    ///
    /// # Errors
    ///
    /// Says which step the kernel refused, and what to do about a taken id. Nothing is left behind.
    pub fn add(mut control: Control, spec: &Spec, geometry: &Geometry) -> Result<Device> {
        let scan_off = control.features() & feature::NO_AUTO_PART_SCAN;
        let zero_copy = zero_copy(&control, spec, geometry)?;
        let owner = if spec.unprivileged {
            feature::UNPRIVILEGED_DEV
        } else {
            0
        };
        let recovery = if spec.recover {
            let quiesce = control.features() & feature::QUIESCE;
            feature::USER_RECOVERY | feature::USER_RECOVERY_REISSUE | quiesce
        } else {
            0
        };
        let wanted = DevInfo {
            nr_hw_queues: spec.queues,
            queue_depth: spec.depth,
            max_io_buf_bytes: geometry.max_transfer_bytes,
            flags: feature::CMD_IOCTL_ENCODE | scan_off | zero_copy | owner | recovery,
            ublksrv_pid: -1,
            ublksrv_flags: spec.mark,
            ..DevInfo::default()
        };
        let info = control
            .add(spec.id, &wanted)
            .map_err(|why| add_error(spec, why))?;
        if info.nr_hw_queues < spec.queues {
            warn!(
                asked = spec.queues,
                given = info.nr_hw_queues,
                "fewer queues than asked for: the kernel gives one for each processor at most"
            );
        }
        let mut device = Device {
            control,
            info,
            node: None,
            char_device: None,
            recovering: false,
        };
        match device.prepare(geometry, spec) {
            Ok(()) => Ok(device),
            Err(error) => {
                if let Err(why) = device.delete() {
                    warn!(%why, "a device is left; try 'wasmblk del {}'", device.id());
                }
                Err(error)
            }
        }
    }

    /// A device that somebody else has added, to be stopped and deleted.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is none.
    pub fn adopt(mut control: Control, id: u32) -> io::Result<Device> {
        let info = control.info(id)?;
        Ok(Device {
            control,
            info,
            node: None,
            char_device: None,
            recovering: false,
        })
    }

    fn prepare(&mut self, geometry: &Geometry, spec: &Spec) -> Result<()> {
        if spec.unprivileged && !self.info.is_unprivileged() {
            return Err(Error::usage(
                "--unprivileged: whoever has CAP_SYS_ADMIN gets no such device; leave it out",
            ));
        }
        if spec.unprivileged {
            let node = self.node.insert(own_node(self.info.dev_id)?);
            let path = format!("/proc/self/fd/{}", node.as_raw_fd());
            self.control.name_by(Some(Path::new(&path)));
        }
        let params = encode::params(geometry, spec.align_bytes);
        self.control
            .set_params(self.id(), &params)
            .doing(|| format!("the kernel does not take this guest's geometry ({geometry:?})"))?;
        self.char_device = Some(Arc::new(open_char(self.id())?));
        Ok(())
    }

    /// The number N of `/dev/ublkbN`.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.info.dev_id
    }

    /// Whether the data of requests stays in the kernel.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.info.is_zero_copy()
    }

    /// What the kernel made of what was asked for.
    #[must_use]
    pub fn info(&self) -> &DevInfo {
        &self.info
    }

    /// The open `/dev/ublkcN`, for a worker. `None` after [`Device::delete`].
    #[must_use]
    pub fn char_device(&self) -> Option<Arc<File>> {
        self.char_device.clone()
    }

    /// The same for another process, which serves the device in the place of this one; here it is closed.
    pub fn take_char_device(&mut self) -> Option<Arc<File>> {
        self.char_device.take()
    }

    /// The processors that send requests to these queues.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn affinity(&mut self, queues: &[u16]) -> io::Result<Vec<usize>> {
        let id = self.id();
        let mut processors = Vec::new();
        for &queue in queues {
            processors.extend(self.control.queue_affinity(id, queue)?);
        }
        Ok(processors)
    }

    /// Starts the device: its disk appears. All workers must be on their way to fetch.
    ///
    /// # Errors
    ///
    /// Where the kernel does not start it in time.
    pub fn start(&mut self) -> Result<()> {
        let id = self.id();
        let started = if self.recovering {
            self.control.end_recovery(id)
        } else {
            self.control.start(id)
        };
        started.doing(|| format!("cannot start ublk device {id}"))?;
        if !std::mem::take(&mut self.recovering) {
            scheduler::leave_out(id);
        }
        let node = block_path(id);
        let wanted = if self.info.is_unprivileged() {
            Access::READ_OK | Access::WRITE_OK
        } else {
            Access::EXISTS
        };
        if wait_for_node(&node, wanted).is_ok() {
            return Ok(());
        }
        if node.exists() {
            return Err(Error::failed(format!(
                "nobody made {} this user's: udev does, by the rules of 'wasmblk udev install'",
                node.display()
            )));
        }
        Err(Error::failed(format!(
            "{} did not appear although the device started; is /dev a devtmpfs or kept by udev?",
            node.display()
        )))
    }

    /// Has the server end in order, so that another can take the device up: it gets all tags back that have no request.
    ///
    /// # Errors
    ///
    /// `Unsupported` where kernel or device have no such thing.
    pub fn quiesce(&mut self) -> io::Result<()> {
        if self.info.flags & feature::QUIESCE == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.control.quiesce(self.info.dev_id)
    }

    /// Takes the device up again after its server has ended. Gives the open `/dev/ublkcN` for the next one, to be
    /// closed here once that has it; [`Device::start`] lets requests go on.
    ///
    /// # Errors
    ///
    /// Where it was not made for that, or is gone.
    pub fn recover(&mut self) -> Result<File> {
        let id = self.id();
        let failed = || format!("cannot take up device {id}");
        let now = self.now().doing(failed)?;
        if now.ublksrv_flags != self.info.ublksrv_flags {
            let text = "it is gone, and its number another's";
            return Err(Error::failed(failed()).because(Error::failed(text)));
        }
        self.control.begin_recovery(id).doing(failed)?;
        self.recovering = true;
        open_char(id)
    }

    /// Whether it was taken up and has not been started again.
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// Stops the device unless somebody has it open.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` where somebody has, or seems to on kernels without TRY_STOP.
    pub fn try_stop(&mut self) -> io::Result<()> {
        let id = self.id();
        if self.control.can_try_stop() {
            return self.control.try_stop(id).or_else(gone_is_fine);
        }
        if holders(id).is_empty() {
            return self.stop();
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Changes its size.
    ///
    /// # Errors
    ///
    /// `Unsupported` where the kernel cannot.
    pub fn resize(&mut self, size_bytes: u64) -> io::Result<()> {
        self.control.resize(self.info.dev_id, size_bytes)
    }

    /// What the kernel says of it now.
    ///
    /// # Errors
    ///
    /// `NotFound` where it is gone.
    pub fn now(&mut self) -> io::Result<DevInfo> {
        self.control.info(self.info.dev_id)
    }

    /// Stops the device, used or not: its disk goes, and workers get their tags back and end.
    /// Stopping what is stopped is no error.
    ///
    /// # Errors
    ///
    /// `TimedOut` where requests are still in the guest's hands; the kernel goes on stopping.
    pub fn stop(&mut self) -> io::Result<()> {
        self.control.stop(self.info.dev_id).or_else(gone_is_fine)
    }

    /// Deletes the device, once its workers have ended. Where somebody still has its disk open, its
    /// number becomes free later.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn delete(&mut self) -> io::Result<()> {
        self.char_device = None;
        self.control
            .delete(self.info.dev_id)
            .map(drop)
            .or_else(gone_is_fine)
    }
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

/// Why a device could not be added, in words.
fn add_error(spec: &Spec, why: io::Error) -> Error {
    let message = match (why.raw_os_error(), spec.id) {
        (Some(libc::EEXIST), Some(id)) => format!(
            "device {id} exists already; choose another --id, or none, or see 'wasmblk list' and \
             'wasmblk del {id}'"
        ),
        (Some(libc::EPERM), _) => "adding a ublk device needs CAP_SYS_ADMIN; try sudo, or --unprivileged".into(),
        (Some(libc::EACCES), _) => {
            "the kernel allows no further devices (parameter ublks_max of ublk_drv)".into()
        }
        _ if why.kind() == io::ErrorKind::TimedOut => {
            "the kernel does not answer ADD_DEV; some kernels (6.17, 6.18.4 and .5) hang there: see \
             'wasmblk doctor'"
                .into()
        }
        _ => "cannot add a ublk device".into(),
    };
    Error::failed(message).because(why)
}
