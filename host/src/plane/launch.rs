//! How `add` starts a data plane and learns whether its device is ready: one message each way over a
//! socket pair, which is the new process's standard input.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg,
    socketpair,
};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::config::DeviceConfig;
use crate::error::{Context, Error, Kind, Result};
use crate::limits;
use crate::sys::Artefact;

/// Longest message: guest options take the most of it.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// A device that can be used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Its number.
    pub id: u32,
    /// Its node.
    pub device: PathBuf,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ready(Ready),
    Error(Kind, String),
}

/// Starts a data plane for a compiled guest, and waits until its device can be used.
///
/// # Errors
///
/// What the data plane says; or that it ended, or did not answer in time.
pub fn start(config: &DeviceConfig, artefact: &Artefact) -> Result<Ready> {
    let failed = || "cannot start the process of the device".to_owned();
    let message = serde_json::to_vec(config).doing(failed)?;
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Error::usage(
            "the guest's options are too long; 64 KiB in all is the most",
        ));
    }
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).doing(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg("plane")
        .args(["--log", &config.log])
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .doing(failed)?;
    send_launch(&ours, &message, artefact).doing(failed)?;
    wait(&ours, &mut child)
}

fn send_launch(socket: &OwnedFd, message: &[u8], artefact: &Artefact) -> io::Result<()> {
    let fds = [artefact.file().as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        socket,
        &[IoSlice::new(message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn wait(socket: &OwnedFd, child: &mut Child) -> Result<Ready> {
    let timeout = Timespec {
        tv_sec: limits::START_TIMEOUT.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&timeout)).doing(|| "cannot wait for the device".into())?;
    if ready == 0 {
        // It hangs in the kernel, where nothing ends it; it cleans up if it ever comes back.
        return Err(Error::failed(format!(
            "the device was not ready within {} s; its process {} goes on trying. If the kernel hangs, \
             'wasmblk doctor' may know this kernel",
            limits::START_TIMEOUT.as_secs(),
            child.id()
        )));
    }
    let mut message = vec![0; MESSAGE_BYTES_MAX];
    let (_, length) = recv(socket, message.as_mut_slice(), RecvFlags::empty())
        .doing(|| "cannot read from the device's process".into())?;
    match serde_json::from_slice(&message[..length]) {
        Ok(Answer::Ready(ready)) => Ok(ready),
        Ok(Answer::Error(Kind::Usage, text)) => Err(Error::usage(text)),
        Ok(Answer::Error(Kind::Failed, text)) => Err(Error::failed(text)),
        Err(_) => {
            let status = child
                .wait()
                .doing(|| "the device's process is lost".into())?;
            Err(Error::failed(format!(
                "the device's process ended before it was ready: {status}"
            )))
        }
    }
}

/// The data plane's end of the socket pair.
#[derive(Debug)]
pub struct Parent(OwnedFd);

/// Reads what `add` sent, in the new process.
///
/// # Errors
///
/// Where this process was not started by `add`.
pub fn receive() -> Result<(DeviceConfig, Artefact, Parent)> {
    let alone = || Error::usage("'wasmblk plane' is started by 'wasmblk add'");
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|_| alone())?;
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|_| alone())?;
    let artefact = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    // The kernel says who is at the other end; machine code of another user is not to be run.
    let sender = socket_peercred(&socket).map_err(|_| alone())?.uid;
    if sender != geteuid() {
        return Err(alone());
    }
    let config = serde_json::from_slice(&bytes[..received.bytes]).map_err(|_| alone())?;
    Ok((
        config,
        Artefact::vouch(File::from(artefact.ok_or_else(alone)?)),
        Parent(socket),
    ))
}

impl Parent {
    /// Tells `add` that the device can be used.
    ///
    /// # Errors
    ///
    /// Where `add` is gone: then nobody knows of the device.
    pub fn ready(&self, ready: &Ready) -> Result<()> {
        self.send(&Answer::Ready(ready.clone()))
            .doing(|| "'wasmblk add' went away".into())
    }

    /// Tells `add` why there is no device.
    pub fn error(&self, error: &Error) {
        // If it is gone, nobody is left to be told.
        let _ = self.send(&Answer::Error(error.kind(), error.chain()));
    }

    fn send(&self, answer: &Answer) -> io::Result<()> {
        let message = serde_json::to_vec(answer)?;
        send(&self.0, &message, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}
