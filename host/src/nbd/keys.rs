//! Pre-shared keys, in a file as GnuTLS's psktool makes it: a line for each user, `username:hexkey`. TLS 1.3
//! and nothing older, with an ephemeral key exchange each time: who learns a key later cannot read what was
//! recorded before.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::task::Poll;

use s2n_tls::config::{Builder, Config};
use s2n_tls::enums::PskHmac;
use s2n_tls::error::Error as TlsError;
use s2n_tls::psk::Psk;
use s2n_tls::security::Policy;
use tracing::debug;

use super::tls::Encryption;
use crate::error::{Error, Result};
use crate::limits;
use crate::sys::S2nConnection;

/// TLS 1.3 only, with ECDHE; a name that the library promises not to change the meaning of.
const POLICY: &str = "AWS-CRT-SDK-TLSv1.3-2023";

/// The keys of all users.
#[derive(Debug)]
pub struct Keys {
    config: Config,
    users: Vec<User>,
}

#[derive(Debug)]
struct User {
    name: Vec<u8>,
    key: Psk,
    line: usize,
}

impl Keys {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Names the file, the line, what is wrong with it and what to do; never a key.
    pub fn read(file: &Path) -> Result<Keys> {
        let shown = file.display();
        let text = read_private(file)?;
        let mut users: Vec<User> = Vec::new();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            if line.is_empty() {
                continue;
            }
            let wrong = |why: String| Error::usage(format!("{shown}, line {number}: {why}"));
            let user = user(number, line).map_err(wrong)?;
            if let Some(other) = users.iter().find(|other| other.name == user.name) {
                let (name, first) = (user.shown(), other.line);
                return Err(wrong(format!(
                    "{name} has a key in line {first} already; remove one of the two lines"
                )));
            }
            users.push(user);
        }
        let (count, most) = (users.len(), limits::NBD_KEYS_MAX);
        if count == 0 {
            return Err(Error::usage(format!(
                "there is no key in {shown}; 'psktool -u USER -p {shown}' makes one"
            )));
        }
        if count > most {
            return Err(Error::usage(format!(
                "{shown} has {count} keys; --tls-psk takes {most} at most"
            )));
        }
        let config = config()
            .map_err(|why| Error::failed("TLS with pre-shared keys cannot be used").because(why))?;
        Ok(Keys { config, users })
    }

    pub(super) fn only_user(&self) -> Option<&[u8]> {
        match &self.users[..] {
            [user] => Some(&user.name),
            _ => None,
        }
    }
}

impl User {
    fn shown(&self) -> String {
        shown(&self.name)
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Reads a file that nobody but its owner and its group may read: whoever has a key is let in. A group is
/// what an administrator gives such a file on purpose.
fn read_private(file: &Path) -> Result<Vec<u8>> {
    let shown = file.display();
    let unreadable = |why: io::Error| {
        Error::usage(format!(
            "cannot read {shown}; --tls-psk names a file of keys, as 'psktool -u USER -p {shown}' makes it"
        ))
        .because(why)
    };
    let opened = File::open(file).map_err(unreadable)?;
    let mode = opened.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(Error::usage(format!(
            "everybody on this machine has access to the keys in {shown}: 'chmod o= {shown}'"
        )));
    }
    let most = limits::NBD_KEYS_FILE_BYTES_MAX;
    let mut text = Vec::new();
    opened
        .take(most as u64 + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    if text.len() > most {
        return Err(Error::usage(format!(
            "{shown} is longer than {most} bytes: it is no file of keys"
        )));
    }
    Ok(text)
}

/// One line. The error says what is wrong with it, without a word of the line but the name.
fn user(line: usize, text: &[u8]) -> std::result::Result<User, String> {
    let format = "expected 'username:hexkey', as psktool writes it";
    let colon = text.iter().rposition(|byte| *byte == b':').ok_or(format)?;
    let (name, digits) = (&text[..colon], &text[colon + 1..]);
    let name = match name.strip_prefix(b"#") {
        // psktool's way to write a name that is no text.
        Some(name) => from_hex(name).ok_or("after '#' the name is in hexadecimal digits")?,
        None => name.to_vec(),
    };
    if name.is_empty() {
        return Err(format.into());
    }
    let shown = shown(&name);
    if digits.len() % 2 != 0 {
        return Err(format!(
            "the key of {shown} has an odd number of digits; two are one byte"
        ));
    }
    let secret = from_hex(digits)
        .ok_or_else(|| format!("the key of {shown} has other than hexadecimal digits"))?;
    let (bytes, least) = (secret.len(), limits::NBD_KEY_BYTES_MIN);
    if bytes < least {
        return Err(format!(
            "the key of {shown} has {bytes} bytes, and needs {least}; psktool makes one that is long enough"
        ));
    }
    let key = key(&name, &secret).map_err(|why| format!("the key of {shown}: {why}"))?;
    Ok(User { name, key, line })
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

fn key(name: &[u8], secret: &[u8]) -> std::result::Result<Psk, TlsError> {
    let mut key = Psk::builder()?;
    key.set_identity(name)?;
    key.set_secret(secret)?;
    // The hash that is meant where nothing else is said (RFC 8446, 4.2.11).
    key.set_hmac(PskHmac::SHA256)?;
    key.build()
}

fn config() -> std::result::Result<Config, TlsError> {
    let mut config = Builder::new();
    config.with_system_certs(false)?;
    config.set_security_policy(&Policy::from_version(POLICY)?)?;
    // After an error the library would say nothing for half a minute, for the sake of ciphers that TLS 1.3
    // does not have. What it says is the same whatever was wrong.
    config.set_max_blinding_delay(0)?;
    config.build()
}

/// One client, by s2n-tls.
pub(super) struct Keyed {
    tls: S2nConnection,
    /// Whether the client has shown that it has a key.
    known: bool,
}

impl Keyed {
    pub(super) fn new(keys: &Keys) -> io::Result<Keyed> {
        let all = keys.users.iter().map(|user| &user.key);
        let tls = S2nConnection::new(&keys.config, all).map_err(io::Error::other)?;
        Ok(Keyed { tls, known: false })
    }

    fn handshake(&mut self) -> io::Result<()> {
        let complete = self.tls.handshake();
        let name = self.tls.key_name().map_err(io::Error::other)?;
        let user = shown(&name);
        match complete {
            Ok(false) => {}
            Ok(true) if !name.is_empty() => {
                debug!(user, "a client has shown its key");
                self.known = true;
            }
            // There is no other way in: this would be a mistake of the library.
            Ok(true) => return Err(io::ErrorKind::PermissionDenied.into()),
            Err(why) if name.is_empty() => {
                let why = format!("it names no user whose key is known: {why}");
                return Err(io::Error::other(why));
            }
            Err(why) => return Err(io::Error::other(format!("it is not {user}: {why}"))),
        }
        Ok(())
    }
}

impl Encryption for Keyed {
    fn read_tls(&mut self, socket: &mut File) -> io::Result<usize> {
        self.tls.read_from(socket, limits::NBD_TLS_READ_BYTES)
    }

    fn process(&mut self) -> io::Result<()> {
        if self.known {
            return Ok(());
        }
        self.handshake().inspect_err(|_| self.tls.close())
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while self.known && filled < bytes.len() {
            match self.tls.receive(&mut bytes[filled..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) if filled == 0 => return Ok(0),
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(more)) => filled += more,
                Poll::Ready(Err(why)) => {
                    self.tls.close();
                    return Err(io::Error::other(why));
                }
            }
        }
        if filled == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(filled)
    }

    fn has_input(&self) -> bool {
        self.known && self.tls.has_input()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What is said to a client that is not known would be the server's mistake.
        if !self.known {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let room = limits::NBD_TLS_BYTES_MAX.saturating_sub(self.tls.unsent());
        let taken = bytes.len().min(room);
        if taken > 0 {
            self.tls.send(&bytes[..taken]).map_err(io::Error::other)?;
        }
        Ok(taken)
    }

    fn has_unsent(&self) -> bool {
        self.tls.unsent() > 0
    }

    fn write_tls(&mut self, socket: &mut File) -> io::Result<usize> {
        self.tls.write_to(socket)
    }

    fn close(&mut self) {
        self.tls.close();
    }
}
