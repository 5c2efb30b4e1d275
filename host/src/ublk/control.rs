//! The driver's control commands, each with a bound, and with a fallback where a kernel lacks one.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use zerocopy::{FromZeros, IntoBytes};

use super::abi::{CtrlCmd, DevInfo, Params, SECTOR_SHIFT, control, feature};
use super::node::{NODE_STEP, char_path};
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::sys::ControlRing;

/// The driver's control node.
pub const CONTROL_PATH: &str = "/dev/ublk-control";

/// `u32::MAX` as a device number: ADD_DEV chooses one; commands without a device ignore it.
const NO_DEVICE: u32 = u32::MAX;

/// Bytes of a mask of processors: as many as any kernel is configured for (`NR_CPUS` 8192).
const CPU_MASK_BYTES: usize = 1024;

/// The open control node.
#[derive(Debug)]
pub struct Control {
    ring: ControlRing,
    features: u64,
    /// How commands name the device that they are about, with its NUL; empty where the number will do.
    path: Vec<u8>,
}

impl Control {
    /// Opens the control node and asks for the driver's features.
    ///
    /// # Errors
    ///
    /// Says what is missing: the driver, the permission, io_uring, or a driver that is new enough.
    pub fn open() -> Result<Control> {
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open(CONTROL_PATH)
            .map_err(|why| {
                let remedy = match why.kind() {
                    io::ErrorKind::NotFound => {
                        "the ublk driver is not loaded; try 'modprobe ublk_drv' as root, and \
                     'wasmblk doctor' where that does not help"
                    }
                    io::ErrorKind::PermissionDenied => {
                        "ublk devices need root; try 'sudo wasmblk ...', or ask who is root for --unprivileged"
                    }
                    _ => "try 'wasmblk doctor'",
                };
                Error::failed(format!("cannot open {CONTROL_PATH} ({remedy})")).because(why)
            })?;
        let ring = ControlRing::new(control).doing(|| {
            "this system allows no io_uring, which ublk needs; 'wasmblk doctor' says more".into()
        })?;
        let mut this = Control {
            ring,
            features: 0,
            path: Vec::new(),
        };
        let mut features = 0_u64;
        this.call(
            control::GET_FEATURES,
            CtrlCmd::default(),
            features.as_mut_bytes(),
        )
        .doing(|| "the ublk driver is older than Linux 6.5; 6.12 or newer is needed".into())?;
        this.features = features;
        Ok(this)
    }

    /// The driver's features (`abi::feature`).
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Has all commands from here on name one device by a path of its `/dev/ublkcN`: of an unprivileged device the
    /// kernel demands that, and who may read and write the node may command the device. `None` for others.
    pub fn name_by(&mut self, path: Option<&Path>) {
        self.path = path.map(c_path).unwrap_or_default();
    }

    /// Adds a device: makes `/dev/ublkcN`. `wanted` says queues, depth, buffer and flags, and the id
    /// (`None`: the kernel chooses). The reply has what the kernel made of it.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` for a taken id; `TimedOut` where the kernel hangs.
    pub fn add(&mut self, id: Option<u32>, wanted: &DevInfo) -> io::Result<DevInfo> {
        let mut info = DevInfo {
            dev_id: id.unwrap_or(NO_DEVICE),
            ..*wanted
        };
        let command = CtrlCmd {
            dev_id: info.dev_id,
            queue_id: u16::MAX,
            ..CtrlCmd::default()
        };
        self.call(control::ADD_DEV, command, info.as_mut_bytes())?;
        Ok(info)
    }

    /// Sets the parameters of a device that has not started.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the kernel does not like them.
    pub fn set_params(&mut self, id: u32, params: &Params) -> io::Result<()> {
        let mut params = *params;
        self.call(control::SET_PARAMS, device(id), params.as_mut_bytes())
            .map(drop)
    }

    /// Starts a device whose tags are all being fetched by this process, which opened `/dev/ublkcN`.
    ///
    /// # Errors
    ///
    /// `TimedOut` where a worker does not fetch.
    pub fn start(&mut self, id: u32) -> io::Result<()> {
        self.begin_to_serve(control::START_DEV, id)
    }

    fn begin_to_serve(&mut self, operation: u32, id: u32) -> io::Result<()> {
        let pid = std::process::id();
        let command = CtrlCmd {
            data: pid.into(),
            ..device(id)
        };
        self.slow_call(operation, command)
    }

    /// Takes up a device whose server has ended and that was made for that: from here on a further process may open
    /// its `/dev/ublkcN`. The kernel may still be busy with the end of the last one.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is none, `ResourceBusy` where it is served after all.
    pub fn begin_recovery(&mut self, id: u32) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            let begun = self.call(control::START_USER_RECOVERY, device(id), &mut []);
            match begun.map_err(no_device) {
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy
                        && begin.elapsed() < limits::RECOVERY_TIMEOUT =>
                {
                    std::thread::sleep(NODE_STEP);
                }
                begun => return begun.map(drop),
            }
        }
    }

    /// Has a device that can be taken up give its server all tags back, so that another can: requests wait from then
    /// on. Those that the server has are its to answer.
    ///
    /// # Errors
    ///
    /// `Unsupported` before Linux 6.16, and for devices that cannot be taken up.
    pub fn quiesce(&mut self, id: u32) -> io::Result<()> {
        if self.features & feature::QUIESCE == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let timeout = u64::try_from(limits::CONTROL_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let command = CtrlCmd {
            data: timeout / 2,
            ..device(id)
        };
        self.call(control::QUIESCE_DEV, command, &mut [])
            .map(drop)
            .map_err(no_device)
    }

    /// Starts a device that was taken up, as [`Control::start`] does a new one: requests that waited go on.
    ///
    /// # Errors
    ///
    /// `TimedOut` where a worker does not fetch.
    pub fn end_recovery(&mut self, id: u32) -> io::Result<()> {
        self.begin_to_serve(control::END_USER_RECOVERY, id)
    }

    /// What the kernel knows of a device.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is none (the driver's own answer is `ENODEV`).
    pub fn info(&mut self, id: u32) -> io::Result<DevInfo> {
        // By the path of the node the kernel decides who may ask. A device that is being deleted has lost its
        // node, but not its id.
        let before = std::mem::replace(&mut self.path, c_path(&char_path(id)));
        let mut info = DevInfo::new_zeroed();
        let asked = self.call(control::GET_DEV_INFO2, device(id), info.as_mut_bytes());
        self.path = before;
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.call(control::GET_DEV_INFO, device(id), info.as_mut_bytes())
            }
            asked => asked,
        }
        .map_err(no_device)?;
        Ok(info)
    }

    /// The processors whose requests come by this queue, as numbers.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn queue_affinity(&mut self, id: u32, queue: u16) -> io::Result<Vec<usize>> {
        let mut mask = [0; CPU_MASK_BYTES];
        let command = CtrlCmd {
            data: queue.into(),
            ..device(id)
        };
        self.call(control::GET_QUEUE_AFFINITY, command, &mut mask)?;
        let in_mask = |cpu: &usize| mask[cpu / 8] & (1 << (cpu % 8)) != 0;
        Ok((0..CPU_MASK_BYTES * 8).filter(in_mask).collect())
    }

    /// Stops a device, used or not: its disk goes, and its server gets all tags back.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is none.
    pub fn stop(&mut self, id: u32) -> io::Result<()> {
        self.slow_call(control::STOP_DEV, device(id))
            .map_err(no_device)
    }

    /// Whether [`Control::try_stop`] is there (Linux 7.0).
    #[must_use]
    pub fn can_try_stop(&self) -> bool {
        self.features & feature::SAFE_STOP_DEV != 0
    }

    /// Stops a device unless somebody has it open.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` where somebody has.
    pub fn try_stop(&mut self, id: u32) -> io::Result<()> {
        self.slow_call(control::TRY_STOP_DEV, device(id))
            .map_err(no_device)
    }

    /// Changes the size of a device that has started. The kernel checks nothing of it.
    ///
    /// # Errors
    ///
    /// `Unsupported` before Linux 6.16.
    pub fn resize(&mut self, id: u32, size_bytes: u64) -> io::Result<()> {
        if self.features & feature::UPDATE_SIZE == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let command = CtrlCmd {
            data: size_bytes >> SECTOR_SHIFT,
            ..device(id)
        };
        self.call(control::UPDATE_SIZE, command, &mut [])
            .map(drop)
            .map_err(no_device)
    }

    /// Deletes a device and waits a bounded time until its id is free; where somebody still holds
    /// one of its nodes, the id becomes free when they let go, and the result is `false`.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is none.
    pub fn delete(&mut self, id: u32) -> io::Result<bool> {
        if !self.path.is_empty() {
            return self.delete_and_wait(id);
        }
        self.call(control::DEL_DEV_ASYNC, device(id), &mut [])
            .map_err(no_device)?;
        let steps = limits::DELETE_TIMEOUT.as_millis() / NODE_STEP.as_millis();
        for _ in 0..steps {
            match self.info(id) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                _ => {}
            }
            std::thread::sleep(NODE_STEP);
        }
        Ok(false)
    }

    /// The kernel's own wait: there is no other way for unprivileged devices.
    fn delete_and_wait(&mut self, id: u32) -> io::Result<bool> {
        match self.timed_call(
            control::DEL_DEV,
            device(id),
            &mut [],
            limits::DELETE_TIMEOUT,
        ) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(no_device(error)),
        }
    }

    /// One without data that may wait for the guest.
    fn slow_call(&mut self, operation: u32, command: CtrlCmd) -> io::Result<()> {
        self.timed_call(operation, command, &mut [], limits::SLOW_CONTROL_TIMEOUT)
            .map(drop)
    }

    fn call(&mut self, operation: u32, command: CtrlCmd, data: &mut [u8]) -> io::Result<i32> {
        self.timed_call(operation, command, data, limits::CONTROL_TIMEOUT)
    }

    /// One command; the path goes before its data.
    fn timed_call(
        &mut self,
        operation: u32,
        command: CtrlCmd,
        data: &mut [u8],
        timeout: Duration,
    ) -> io::Result<i32> {
        let mut whole = [&self.path, &*data].concat();
        let dev_path_len =
            u16::try_from(self.path.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let command = CtrlCmd {
            dev_path_len,
            ..command
        };
        let result = self.ring.call(operation, command, &mut whole, timeout)?;
        data.copy_from_slice(&whole[self.path.len()..]);
        Ok(result)
    }
}

fn c_path(path: &Path) -> Vec<u8> {
    [path.as_os_str().as_bytes(), b"\0"].concat()
}

/// A command's header for one device, no queue.
fn device(id: u32) -> CtrlCmd {
    CtrlCmd {
        dev_id: id,
        queue_id: u16::MAX,
        ..CtrlCmd::default()
    }
}

/// The driver says ENODEV for a device that does not exist.
fn no_device(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENODEV) => io::ErrorKind::NotFound.into(),
        _ => error,
    }
}
