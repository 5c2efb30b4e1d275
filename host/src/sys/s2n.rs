//! A server's side of one TLS connection by s2n-tls, between two buffers in memory. The library is in C and
//! calls us back for what is encrypted; no call of it waits.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::io;
use std::ptr::copy_nonoverlapping;
use std::rc::Rc;
use std::task::Poll;

use s2n_tls::config::Config;
use s2n_tls::connection::Connection;
use s2n_tls::enums::Blinding;
use s2n_tls::error::Error;
use s2n_tls::psk::Psk;

/// What is encrypted, on its way.
#[derive(Default)]
struct Wire {
    /// What came; the first `taken` bytes are the library's.
    came: Vec<u8>,
    taken: usize,
    /// What is to be sent.
    going: Vec<u8>,
}

/// One connection. The fields' order is that of their end: the library's part, which has the address of the
/// wire, goes first.
pub struct S2nConnection {
    connection: Connection,
    wire: Rc<RefCell<Wire>>,
}

impl S2nConnection {
    /// A connection that only those come in by who have one of these keys.
    ///
    /// # Errors
    ///
    /// The library's, such as two keys of the same name.
    pub fn new<'a>(
        config: &Config,
        keys: impl Iterator<Item = &'a Psk>,
    ) -> Result<S2nConnection, Error> {
        let wire = Rc::<RefCell<Wire>>::default();
        let address = Rc::as_ptr(&wire).cast_mut().cast::<c_void>();
        let mut connection = Connection::new_server();
        connection.set_config(config.clone())?;
        // By default it sleeps for half a minute where a client sends nonsense.
        connection.set_blinding(Blinding::SelfService)?;
        connection.set_receive_callback(Some(receive))?;
        connection.set_send_callback(Some(send))?;
        // SAFETY: the address is that of a wire that lives for as long as the connection: both are in one
        // struct, of which neither is ever handed out or replaced, and the connection is dropped first.
        unsafe { connection.set_receive_context(address) }?;
        // SAFETY: as above.
        unsafe { connection.set_send_context(address) }?;
        for key in keys {
            connection.append_psk(key)?;
        }
        Ok(S2nConnection { connection, wire })
    }

    /// Takes what came, by one read into a buffer of `bytes`. Returns the bytes read, 0 at the end.
    ///
    /// # Errors
    ///
    /// The reader's.
    pub fn read_from(&mut self, reader: &mut dyn io::Read, bytes: usize) -> io::Result<usize> {
        let wire = &mut *self.wire.borrow_mut();
        wire.came.drain(..wire.taken);
        wire.taken = 0;
        let before = wire.came.len();
        wire.came.resize(before + bytes, 0);
        let read = reader.read(&mut wire.came[before..]);
        wire.came.truncate(before + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Sends what is to go, by one write. Returns the bytes written.
    ///
    /// # Errors
    ///
    /// The writer's.
    pub fn write_to(&mut self, writer: &mut dyn io::Write) -> io::Result<usize> {
        let going = &mut self.wire.borrow_mut().going;
        let written = writer.write(going)?;
        going.drain(..written);
        Ok(written)
    }

    /// Encrypted bytes that are to be sent.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.wire.borrow().going.len()
    }

    /// Whether [`S2nConnection::receive`] may have something without more being read.
    #[must_use]
    pub fn has_input(&self) -> bool {
        let wire = self.wire.borrow();
        self.connection.peek_len() > 0 || wire.taken < wire.came.len()
    }

    /// Goes on with the handshake, as far as what came suffices. Says whether it is complete.
    ///
    /// # Errors
    ///
    /// Where the client is not let in.
    pub fn handshake(&mut self) -> Result<bool, Error> {
        match self.connection.poll_negotiate() {
            Poll::Ready(result) => result.map(|_| true),
            Poll::Pending => Ok(false),
        }
    }

    /// The name of the key that the client has shown to have; empty where there is none.
    ///
    /// # Errors
    ///
    /// The library's.
    pub fn key_name(&self) -> Result<Vec<u8>, Error> {
        let mut name = vec![0; self.connection.negotiated_psk_identity_length()?];
        self.connection.negotiated_psk_identity(&mut name)?;
        Ok(name)
    }

    /// Decrypts at most one record. Nothing is `Pending`; 0 bytes are the end, which the client has told.
    pub fn receive(&mut self, bytes: &mut [u8]) -> Poll<Result<usize, Error>> {
        self.connection.poll_recv(bytes)
    }

    /// Encrypts all of this.
    ///
    /// # Errors
    ///
    /// The library's, where the handshake is not complete or the connection has failed.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self.connection.poll_send(bytes) {
            Poll::Ready(sent) => sent.map(|sent| debug_assert_eq!(sent, bytes.len())),
            Poll::Pending => unreachable!("the wire takes everything"),
        }
    }

    /// Says that this is the end or, after an error, what it was.
    pub fn close(&mut self) {
        let _ = self.connection.poll_shutdown_send();
    }
}

impl fmt::Debug for S2nConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S2nConnection")
            .field(&self.connection)
            .finish()
    }
}

/// The wire that the library has the address of.
///
/// # Safety
///
/// The address is what `S2nConnection::new` gave to a connection that is not dropped yet.
unsafe fn wire<'a>(address: *mut c_void) -> &'a RefCell<Wire> {
    // SAFETY: the struct of that connection has a reference count of the wire, which keeps it where it is;
    // only shared references to it are made, here and there.
    unsafe { &*address.cast::<RefCell<Wire>>() }
}

/// Gives the library what came. It takes a negative number and EAGAIN for "not yet".
unsafe extern "C" fn receive(address: *mut c_void, buffer: *mut u8, bytes: u32) -> c_int {
    // SAFETY: the library calls this with the address that it was given, from a method of the connection.
    let wire = unsafe { wire(address) };
    // Nobody else has it: no method of ours borrows the wire while it calls the library.
    let wire = &mut *wire.borrow_mut();
    let there = &wire.came[wire.taken..];
    let taken = there.len().min(bytes as usize).min(c_int::MAX as usize);
    if taken == 0 {
        // SAFETY: the address of this thread's own errno is always good.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        unsafe { *errno = libc::EAGAIN };
        return -1;
    }
    // SAFETY: the library's buffer has room for `bytes`, which is not less, and does not lie in our vector.
    unsafe { copy_nonoverlapping(there.as_ptr(), buffer, taken) };
    wire.taken += taken;
    c_int::try_from(taken).unwrap_or(-1)
}

/// Takes from the library what is to be sent: always all of it. How much that may become is for the caller
/// of [`S2nConnection::send`] to decide; handshakes and alerts are short.
unsafe extern "C" fn send(address: *mut c_void, buffer: *const u8, bytes: u32) -> c_int {
    let Ok(taken) = c_int::try_from(bytes) else {
        return -1;
    };
    // SAFETY: the library calls this with the address that it was given, from a method of the connection.
    let wire = unsafe { wire(address) };
    // SAFETY: the library's buffer holds so many bytes, and does not change before this returns.
    let bytes = unsafe { std::slice::from_raw_parts(buffer, bytes as usize) };
    wire.borrow_mut().going.extend_from_slice(bytes);
    taken
}
