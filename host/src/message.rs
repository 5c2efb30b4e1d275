//! One message over a socket that keeps messages apart: bytes, and files that go along.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, UCred, recvmsg,
    sendmsg, socketpair, sockopt::socket_passcred,
};

use crate::limits;

/// Longest message: guest options take the most of it.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Files that go along with one message: a guest, its stores, and who waits for it.
const FILES_MAX: usize = limits::STORES_MAX + 2;

/// The most that anybody can send with one (`SCM_MAX_FD` in the kernel's `scm.h`). Without room for all of them the
/// kernel closes the rest in the thread that receives, however long that takes.
const RECEIVED_FILES_MAX: usize = 253;

/// A pair of sockets that keep messages apart.
///
/// # Errors
///
/// Where there are no further file descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    Ok((ours, theirs))
}

/// Sends one.
///
/// # Errors
///
/// The system's; `WouldBlock` where there is no room and the socket does not wait.
pub fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let slices = [IoSlice::new(bytes)];
    let sent = retry_on_intr(|| sendmsg(&socket, &slices, &mut control, SendFlags::NOSIGNAL))?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Looks at the next, which stays where it is: its bytes, and whether files come along. None of them is opened, so
/// none has to be closed, which could take as long as whoever sent it likes.
///
/// # Errors
///
/// As [`receive`].
pub fn peek(socket: impl AsFd) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    // Who has sent it comes first; then there is no room.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::default();
    if socket_passcred(&socket)? {
        control = RecvAncillaryBuffer::new(&mut space);
    }
    let received = retry_on_intr(|| {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        recvmsg(&socket, &mut slices, &mut control, RecvFlags::PEEK)
    })?;
    bytes.truncate(received.bytes);
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((bytes, received.flags.contains(ReturnFlags::CTRUNC)))
}

/// Waits for one, unless the socket does not wait.
///
/// # Errors
///
/// `UnexpectedEof` where the other process has gone; `WouldBlock` where nothing is there.
pub fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    receive_from(socket).map(|(bytes, files, _)| (bytes, files))
}

/// The same, with who has sent it, where the socket is asked to tell (`SO_PASSCRED`).
///
/// # Errors
///
/// As [`receive`].
pub fn receive_from(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>, Option<UCred>)> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit();
        rustix::cmsg_space!(ScmRights(RECEIVED_FILES_MAX), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let (mut files, mut sender) = (Vec::new(), None);
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(more) => files.extend(more),
            RecvAncillaryMessage::ScmCredentials(known) => sender = Some(known),
            _ => {}
        }
    }
    bytes.truncate(received.bytes);
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((bytes, files, sender))
}
