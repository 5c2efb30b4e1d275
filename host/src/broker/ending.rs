//! How a warden ends its device.

use std::io;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{error, warn};

use super::warden::Warden;
use crate::limits;
use crate::ublk::Device;

impl Warden {
    /// Stops and deletes the device. It counts until nobody has any of it open.
    pub(super) fn end(&mut self, device: &mut Device) {
        if self.has(device) {
            self.delete(device);
        }
        let id = device.id();
        let since = Instant::now();
        let mut told = false;
        while is_there(device) {
            if !told && since.elapsed() > self.order.answer_timeout {
                warn!(id, "deleted, and still open somewhere");
                self.kill_server();
                told = true;
            }
            self.find_broker();
            // A broker that ends is heard of.
            let broker = self.report.iter();
            let mut broker: Vec<PollFd<'_>> =
                broker.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            let timeout = limits::BROKER_LOOK_TIME.try_into().ok();
            if poll(&mut broker, timeout.as_ref()).is_ok_and(|ready| ready > 0) {
                self.hear();
            }
        }
    }

    /// From here on its number may become another's at any time.
    fn delete(&self, device: &mut Device) {
        let id = device.id();
        while let Err(why) = device.stop() {
            error!(%why, id, "a device does not stop: its server holds requests");
            self.kill_server();
            if why.kind() != io::ErrorKind::TimedOut {
                break;
            }
        }
        if let Err(why) = device.delete() {
            error!(%why, id, "cannot delete a device");
        }
    }
}

/// Whether the kernel still has the device: by its number there may be another.
pub(super) fn is_there(device: &mut Device) -> bool {
    let mark = device.info().ublksrv_flags;
    device.now().is_ok_and(|now| now.ublksrv_flags == mark)
}
