//! Who does to a minder's device what takes privilege: the minder itself, or a broker's warden.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::block::Geometry;
use crate::broker::{self, Capability, wire};
use crate::config::DeviceConfig;
use crate::error::{Error, Result};
use crate::ublk::abi::DevInfo;
use crate::ublk::{Control, Device, Spec};

/// What a device is made for, as its data plane says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Guest {
    pub(super) geometry: Geometry,
    /// See [`Spec::hidden`].
    pub(super) hidden: bool,
    /// See [`Spec::align_bytes`].
    pub(super) align_bytes: u32,
}

fn spec(config: &DeviceConfig, guest: &Guest) -> Spec {
    Spec {
        id: config.id,
        queues: config.queues,
        depth: config.depth,
        data_path: config.data_path,
        hidden: guest.hidden,
        unprivileged: config.unprivileged,
        recover: config.recover,
        align_bytes: guest.align_bytes,
        // The next device of its number has another minder.
        mark: std::process::id().into(),
    }
}

/// A device from Add to Delete.
#[derive(Debug)]
pub(super) enum Keeper {
    /// By control commands of this process.
    Own(Box<Device>),
    /// By the capability that a broker gave.
    Brokered(u32, Capability),
}

impl Keeper {
    /// Adds a device. Gives what the kernel made of it, and the open `/dev/ublkcN`, to be closed here once the data
    /// plane has it: whoever has it open last makes the kernel stop the device.
    ///
    /// # Errors
    ///
    /// Why there is none. Nothing is left behind.
    pub(super) fn add(
        config: &DeviceConfig,
        guest: &Guest,
    ) -> Result<(Keeper, DevInfo, Arc<File>)> {
        let (spec, geometry) = (spec(config, guest), &guest.geometry);
        if let Some(socket) = &config.broker {
            return Keeper::ask(socket, config, &spec, geometry);
        }
        let mut device = Device::add(Control::open()?, &spec, geometry)?;
        let info = *device.info();
        let Some(file) = device.take_char_device() else {
            return Err(Error::failed("the device is gone"));
        };
        Ok((Keeper::Own(Box::new(device)), info, file))
    }

    fn ask(
        socket: &Path,
        config: &DeviceConfig,
        spec: &Spec,
        geometry: &Geometry,
    ) -> Result<(Keeper, DevInfo, Arc<File>)> {
        let wanted = wire::Wanted {
            id: spec.id,
            name: config.name.clone(),
            run_dir: Some(config.run_dir.clone()),
            queues: spec.queues,
            depth: spec.depth,
            align_bytes: spec.align_bytes,
            geometry: geometry.into(),
            data_path: spec.data_path,
            hidden: spec.hidden,
            recover: spec.recover,
            hosted: config.owner.is_some(),
        };
        let (capability, info, file) = broker::device(socket, &wanted)?;
        Ok((
            Keeper::Brokered(info.dev_id, capability),
            info,
            Arc::new(file),
        ))
    }

    /// Takes the device up again after its data plane has ended. Gives the open `/dev/ublkcN`, as [`Keeper::add`].
    ///
    /// # Errors
    ///
    /// Where it is gone.
    pub(super) fn recover(&mut self) -> Result<File> {
        let capability = match self {
            Keeper::Own(device) => return device.recover(),
            Keeper::Brokered(_, capability) => capability,
        };
        let given = capability.demand(&wire::Command::Recover);
        let given = given.map_err(|why| Error::failed(why.to_string()))?;
        let file = given.into_iter().next().map(File::from);
        file.ok_or_else(|| Error::failed("the device's warden talks nonsense"))
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        match self {
            Keeper::Own(device) => device.id(),
            Keeper::Brokered(id, _) => *id,
        }
    }

    /// Whether it goes by itself when this process does.
    pub(super) fn is_brokered(&self) -> bool {
        matches!(self, Keeper::Brokered(..))
    }

    pub(super) fn affinity(&mut self, queues: &[u16]) -> io::Result<Vec<usize>> {
        let capability = match self {
            Keeper::Own(device) => return device.affinity(queues),
            Keeper::Brokered(_, capability) => capability,
        };
        let queues = queues.to_vec();
        match capability.ask(&wire::Command::Affinity { queues })?.0 {
            wire::Reply::Processors { processors } => Ok(processors),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(super) fn start(&mut self) -> Result<()> {
        match self {
            Keeper::Own(device) => device.start(),
            Keeper::Brokered(_, capability) => (capability.demand(&wire::Command::Start))
                .map(drop)
                .map_err(|why| Error::failed(why.to_string())),
        }
    }

    pub(super) fn try_stop(&mut self) -> io::Result<()> {
        match self {
            Keeper::Own(device) => device.try_stop(),
            Keeper::Brokered(_, it) => it.demand(&wire::Command::TryStop).map(drop),
        }
    }

    pub(super) fn stop(&mut self) -> io::Result<()> {
        match self {
            Keeper::Own(device) => device.stop(),
            Keeper::Brokered(_, it) => it.demand(&wire::Command::Stop).map(drop),
        }
    }

    /// Opens its disk for its owner; for writing only if nobody has it mounted. Where this process commands the device,
    /// there is a node that he can open.
    pub(super) fn open(&mut self, read_only: bool) -> io::Result<Option<OwnedFd>> {
        match self {
            Keeper::Own(_) => Ok(None),
            Keeper::Brokered(_, it) => {
                let exclusive = !read_only;
                let open = wire::Command::Open {
                    read_only,
                    exclusive,
                };
                it.demand(&open).map(|files| files.into_iter().next())
            }
        }
    }

    pub(super) fn delete(&mut self) -> io::Result<()> {
        match self {
            Keeper::Own(device) => device.delete(),
            Keeper::Brokered(_, it) => it.demand(&wire::Command::Delete).map(drop),
        }
    }
}
