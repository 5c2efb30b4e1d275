//! The warden of one device: the process that does to it what takes privilege, for whoever has its capability, and
//! that ends it when nobody has. It waits for the kernel so that the broker need not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::set_socket_passcred;
use rustix::thread::set_name;
use tracing::{debug, error, info, warn};

use super::client;
use super::ending::is_there;
use super::mark;
use super::order::{self, Further, Order, Report};
use super::server::Server;
use super::table::has_disk;
use super::watch::{Counts, Watch};
use super::wire::{self, Command, Reason, Reply, State};
use crate::confine;
use crate::error::{Context, Result};
use crate::limits;
use crate::message;
use crate::sys::leave;
use crate::ublk::abi::state;
use crate::ublk::{Control, Device, Spec};

/// Guards one device, as the broker that started this process orders.
///
/// # Errors
///
/// Where nobody did.
pub fn guard() -> Result<()> {
    let (order, report, files) = order::receive::<Order>()?;
    // What the broker has for others.
    confine::for_broker(false).doing(|| "cannot give up privileges".into())?;
    let _ = set_name(c"wasmblk-warden");
    let mut files = files.into_iter();
    let ends: Vec<OwnedFd> = order
        .capability
        .then(|| files.next())
        .into_iter()
        .flatten()
        .collect();
    let server = files.next().map(Server::new);
    let mut warden = Warden {
        watch: Watch::new(order.answer_timeout),
        order,
        report: Some(report),
        server,
        ends: Vec::new(),
        leaving: Vec::new(),
        stopped: false,
        stuck: None,
        unserved: None,
        alone: false,
        detached: false,
    };
    ends.into_iter().for_each(|end| warden.join(end));
    match warden.begin() {
        Ok(mut device) => {
            if warden.serve(&mut device) {
                warden.end(&mut device);
            }
        }
        Err(refused) => {
            for end in &warden.ends {
                let _ = send(end, &refused, None);
            }
        }
    }
    warden.tell(&Report::Gone);
    Ok(())
}

pub(super) struct Warden {
    pub(super) order: Order,
    /// The broker; none while there is none.
    pub(super) report: Option<OwnedFd>,
    /// Who answers for the device.
    server: Option<Server>,
    /// The capability's other ends.
    pub(super) ends: Vec<OwnedFd>,
    /// Those that are left. What nobody has read of them may be slow to close.
    leaving: Vec<OwnedFd>,
    watch: Watch,
    /// Somebody has stopped it: that its disk goes is no wonder.
    pub(super) stopped: bool,
    /// Since when it does not stop.
    pub(super) stuck: Option<Instant>,
    /// Since when nobody serves it, and somebody could take it up.
    unserved: Option<Instant>,
    /// The one before this one is gone, and nobody has asked for another capability.
    alone: bool,
    pub(super) detached: bool,
}

impl Warden {
    /// A further capability.
    pub(super) fn join(&mut self, end: OwnedFd) {
        // Who does not read his replies does not keep the others from theirs.
        let ready = ioctl_fionbio(&end, true).is_ok() && set_socket_passcred(&end, true).is_ok();
        if ready && self.ends.len() < limits::CAPABILITIES_MAX {
            self.ends.push(end);
            self.alone = false;
        } else {
            self.leave(end);
        }
    }

    fn leave(&mut self, end: OwnedFd) {
        self.leaving.push(end);
        if let Err(why) = leave(&mut self.leaving) {
            // The next time, or when this process ends.
            warn!(%why, "a capability is not closed");
        }
    }

    /// Adds the device, or finds it.
    fn begin(&mut self) -> std::result::Result<Device, Reply> {
        let failed = |text: String| Reply::refused(Reason::Failed, text);
        let control = Control::open().map_err(|error| failed(error.chain()))?;
        let record = &mut self.order.record;
        let Some(wanted) = &self.order.wanted else {
            let id = record.id.unwrap_or(u32::MAX);
            let mut device = Device::adopt(control, id).map_err(|why| failed(why.to_string()))?;
            if device.info().ublksrv_flags != record.mark {
                return Err(failed(
                    "the device is gone, and its number another's".into(),
                ));
            }
            if has_disk(id) {
                record.state = State::Live;
                self.alone = !self.order.capability;
            } else {
                let _ = device.stop();
            }
            self.tell_now();
            return Ok(device);
        };
        let geometry = wanted
            .check()
            .map_err(|text| Reply::refused(Reason::Wrong, text))?;
        let spec = Spec {
            id: wanted.id,
            queues: wanted.queues,
            depth: wanted.depth,
            data_path: wanted.data_path,
            hidden: wanted.hidden,
            // As the kernel has them; this one is of another kind.
            unprivileged: false,
            recover: wanted.recover,
            align_bytes: wanted.align_bytes,
            mark: mark::new(record.uid, process::id()),
        };
        let mut device =
            Device::add(control, &spec, &geometry).map_err(|error| failed(error.chain()))?;
        record.id = Some(device.id());
        record.mark = spec.mark;
        let added = Reply::Added {
            info: *device.info(),
        };
        // Whoever has this open last makes the kernel stop the device: not us.
        let file = device.take_char_device();
        for end in &self.ends {
            let _ = send(end, &added, file.as_ref().map(AsFd::as_fd));
        }
        self.tell_now();
        Ok(device)
    }

    /// Does what holders of the capability ask for, until there is none, or the device is gone. Says whether it is to
    /// be deleted.
    fn serve(&mut self, device: &mut Device) -> bool {
        let mut looked = Instant::now();
        while !self.ends.is_empty() || self.detached || self.alone {
            if self.alone && self.report.is_none() {
                // The one before has come back, or the next broker will start another.
                return false;
            }
            let Some(ready) = self.wait() else {
                return true;
            };
            // From the last to the first: those that go do not move those that come.
            for at in (0..self.ends.len()).rev() {
                if ready.get(at) == Some(&true) && !self.obey(device, at) {
                    let end = self.ends.swap_remove(at);
                    self.leave(end);
                }
            }
            if ready.last() == Some(&true) {
                self.hear();
            }
            if looked.elapsed() >= limits::BROKER_LOOK_TIME {
                looked = Instant::now();
                if !self.look(device) {
                    return true;
                }
            }
            if self.order.record.id.is_none() {
                return true;
            }
        }
        true
    }

    /// Waits; says for each capability, and at last for the broker, whether there is something.
    fn wait(&self) -> Option<Vec<bool>> {
        let all = self.ends.iter().chain(&self.report);
        let mut fds: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let timeout = limits::BROKER_LOOK_TIME.try_into().ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(why) => {
                error!(%why, "cannot wait for commands");
                return None;
            }
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if self.report.is_none() {
            ready.push(false);
        }
        Some(ready)
    }

    /// Does one command. Says whether whoever sent it is still there.
    fn obey(&mut self, device: &mut Device, at: usize) -> bool {
        let end = &self.ends[at];
        match message::peek(end) {
            Ok((_, false)) => {}
            Ok((_, true)) => {
                warn!("files came along with a command: its sender is left");
                return false;
            }
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
        let Ok((bytes, _, sender)) = message::receive_from(end) else {
            return false;
        };
        let (reply, file) = match wire::decode(&bytes) {
            // Its number may be another's by now: root can delete it past this process.
            Ok(_) if !self.has(device) => {
                let text = "the device is gone";
                (Reply::refused(Reason::Failed, text), None)
            }
            Ok(command) => {
                if command == Command::Start
                    && let Some(Ok(server)) = sender.map(Server::of)
                {
                    self.server = Some(server);
                }
                self.run(device, command)
            }
            Err(why) => (Reply::refused(Reason::Wrong, why.to_string()), None),
        };
        send(&self.ends[at], &reply, file.as_ref().map(AsFd::as_fd)).is_ok()
    }

    /// Hears the broker, or that it has ended.
    pub(super) fn hear(&mut self) {
        let Some(broker) = &self.report else { return };
        let heard = message::receive(broker);
        match heard.map(|(bytes, files)| (wire::decode::<Further>(&bytes), files)) {
            Ok((Ok(Further::Join), files)) => files.into_iter().for_each(|end| self.join(end)),
            Ok((Err(why), _)) => warn!(%why, "the broker is another's"),
            Err(why) => {
                debug!(%why, "the broker has ended");
                self.report = None;
            }
        }
    }

    /// Looks for a broker where there is none.
    pub(super) fn find_broker(&mut self) {
        if self.report.is_none() && !self.alone {
            self.report = client::report(&self.order.socket, &self.order.record).ok();
        }
    }

    /// Looks at the device, and for a broker. Says whether to go on.
    fn look(&mut self, device: &mut Device) -> bool {
        let id = device.id();
        self.find_broker();
        if self.order.record.state != State::Live {
            return true;
        }
        // Whose disk is gone has nothing to count.
        let most = limits::SLOW_CONTROL_TIMEOUT * (limits::STOP_TRIES_MAX + 1);
        let never_stops = self.stuck.is_some_and(|since| since.elapsed() > most);
        let counts = Counts::read(id);
        if counts.is_none() && !self.stopped {
            info!(id, "its server has ended");
            return false;
        }
        if self.is_unserved(device) {
            error!(id, "nobody takes it up: it is ended");
            return false;
        }
        let now = Instant::now();
        let overdue = counts.is_some_and(|counts| self.watch.is_overdue(counts, now));
        if overdue || never_stops {
            let seconds = self.order.answer_timeout.as_secs();
            let (uid, pid) = (self.order.record.uid, self.order.record.pid);
            error!(
                id,
                uid, pid, "it has not answered for {seconds} s, or not stopped: it is ended"
            );
            self.kill_server();
            return false;
        }
        true
    }

    /// Whether nobody has served the device for too long. Its disk stays meanwhile, and there may be no request that
    /// waits.
    fn is_unserved(&mut self, device: &mut Device) -> bool {
        if self.stopped || !device.info().can_be_taken_up() {
            return false;
        }
        self.unserved = match device.now() {
            Ok(now) if now.state == state::LIVE => None,
            _ => self.unserved.or_else(|| Some(Instant::now())),
        };
        let most = self.order.answer_timeout;
        self.unserved.is_some_and(|since| since.elapsed() > most)
    }

    /// Ends who answers for the device, and with him what he began to serve it.
    pub(super) fn kill_server(&self) {
        if let Some(server) = &self.server {
            server.kill();
        }
    }

    /// Whether there still is the device that this is for, and nobody has deleted it by this process.
    pub(super) fn has(&self, device: &mut Device) -> bool {
        self.order.record.id.is_some() && is_there(device)
    }

    pub(super) fn tell_now(&mut self) {
        self.tell(&Report::Now(self.order.record.clone()));
    }

    fn tell(&mut self, report: &Report) {
        let sent = |broker: &OwnedFd| message::send(broker, &wire::encode(report)?, &[]);
        if self
            .report
            .as_ref()
            .is_some_and(|broker| sent(broker).is_err())
        {
            self.report = None;
        }
    }
}

fn send(end: &OwnedFd, reply: &Reply, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let files: Vec<_> = file.into_iter().collect();
    message::send(end, &wire::encode(reply)?, &files)
}
