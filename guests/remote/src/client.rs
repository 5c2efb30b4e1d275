//! As much of the NBD protocol as a client needs (proto.md of the NBD project): fixed newstyle, NBD_OPT_GO, simple
//! replies. What a server says is checked; all numbers are big endian.

use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::TcpStream;

use wasmblk_guest::Errno;

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const HAVE_OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;

/// Fixed newstyle, and no zeros behind NBD_OPT_EXPORT_NAME: of the server and of the client.
const FIXED: u16 = 1;
const NO_ZEROES: u16 = 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
/// Longest reply to an option that anybody needs.
const REPLY_MAX: u32 = 4096;

const CMD_FLAG_FUA: u16 = 1;
const CMD_FLAG_NO_HOLE: u16 = 2;

/// What a server says of an export.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) size_bytes: u64,
    flags: u16,
}

impl Export {
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const FLUSH: u16 = 1 << 2;
    pub(crate) const FUA: u16 = 1 << 3;
    pub(crate) const TRIM: u16 = 1 << 5;
    pub(crate) const WRITE_ZEROES: u16 = 1 << 6;

    pub(crate) fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// What is asked of a server; offsets and lengths in bytes.
pub(crate) enum Request<'a> {
    Read(u64, &'a mut [u8]),
    /// Durable before it is answered, where it says so.
    Write(u64, &'a [u8], bool),
    Flush,
    Trim(u64, u32),
    /// Whether the space may be given back.
    WriteZeroes(u64, u32, bool),
}

impl Request<'_> {
    /// Whether something waits for a flush when it was answered, by what was so before.
    pub(crate) fn is_dirty_after(&self, before: bool) -> bool {
        match self {
            Request::Flush => false,
            Request::Read(..) | Request::Write(_, _, true) => before,
            Request::Write(..) | Request::Trim(..) | Request::WriteZeroes(..) => true,
        }
    }

    /// Its type, flags, offset and length.
    fn header(&self) -> (u16, u16, u64, usize) {
        match self {
            Request::Read(offset, data) => (0, 0, *offset, data.len()),
            Request::Write(offset, data, fua) => {
                let flags = if *fua { CMD_FLAG_FUA } else { 0 };
                (1, flags, *offset, data.len())
            }
            Request::Flush => (3, 0, 0, 0),
            Request::Trim(offset, length) => (4, 0, *offset, *length as usize),
            Request::WriteZeroes(offset, length, may_discard) => {
                let flags = if *may_discard { 0 } else { CMD_FLAG_NO_HOLE };
                (6, flags, *offset, *length as usize)
            }
        }
    }
}

/// A connection that has come to its export.
pub(crate) struct Client {
    stream: TcpStream,
    cookie: u64,
    pub(crate) export: Export,
}

impl Client {
    /// Connects and chooses an export.
    pub(crate) fn connect(at: &str, name: &str) -> io::Result<Client> {
        let mut stream = TcpStream::connect(at)?;
        // A request is one packet, and nothing comes behind it.
        let _ = stream.set_nodelay(true);
        if (number(&mut stream)?, number(&mut stream)?) != (MAGIC, HAVE_OPTION) {
            return Err(odd("no NBD server of the newstyle listens there"));
        }
        let mut flags = [0; 2];
        stream.read_exact(&mut flags)?;
        if u16::from_be_bytes(flags) & FIXED == 0 {
            return Err(odd(
                "the server has no fixed newstyle, which this guest needs",
            ));
        }
        let length = u32::try_from(name.len()).map_err(|_| odd("such a long name"))?;
        let mut words = Vec::new();
        words.extend(u32::from(FIXED | NO_ZEROES).to_be_bytes());
        words.extend(HAVE_OPTION.to_be_bytes());
        words.extend(OPT_GO.to_be_bytes());
        words.extend((length + 6).to_be_bytes());
        words.extend(length.to_be_bytes());
        words.extend(name.as_bytes());
        // It asks for no information beside that of the export, which always comes.
        words.extend([0, 0]);
        stream.write_all(&words)?;
        let export = chosen(&mut stream)?;
        Ok(Client {
            stream,
            cookie: 0,
            export,
        })
    }

    /// Sends a request and waits for its answer. The connection is of no use after an error that is not the server's.
    pub(crate) fn ask(&mut self, request: &mut Request<'_>) -> io::Result<Result<(), Errno>> {
        let (kind, flags, offset, length) = request.header();
        self.cookie += 1;
        let mut words = Vec::new();
        words.extend(REQUEST.to_be_bytes());
        words.extend(flags.to_be_bytes());
        words.extend(kind.to_be_bytes());
        words.extend(self.cookie.to_be_bytes());
        words.extend(offset.to_be_bytes());
        let length = u32::try_from(length).map_err(|_| odd("such a long request"))?;
        words.extend(length.to_be_bytes());
        if let Request::Write(_, data, _) = request {
            words.extend(&**data);
        }
        self.stream.write_all(&words)?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        let expected = [&SIMPLE_REPLY.to_be_bytes()[..], &self.cookie.to_be_bytes()];
        if [&reply[..4], &reply[8..]] != expected {
            return Err(odd("this is no answer to what was asked"));
        }
        match [reply[4], reply[5], reply[6], reply[7]] {
            [0, 0, 0, 0] => {}
            error => return Ok(Err(errno(u32::from_be_bytes(error)))),
        }
        if let Request::Read(_, data) = request {
            self.stream.read_exact(data)?;
        }
        Ok(Ok(()))
    }
}

/// Reads the replies to NBD_OPT_GO up to the last.
fn chosen(stream: &mut TcpStream) -> io::Result<Export> {
    let mut export = None;
    loop {
        let magic = number(stream)?;
        let mut rest = [0; 12];
        stream.read_exact(&mut rest)?;
        let word = |at| u32::from_be_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let (option, kind, length) = (word(0), word(4), word(8));
        if magic != OPTION_REPLY || option != OPT_GO || length > REPLY_MAX {
            return Err(odd("this is no reply to NBD_OPT_GO"));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        match kind {
            REP_ACK => return export.ok_or_else(|| odd("it does not say how large the export is")),
            REP_INFO => export = export.or(about_export(&data)),
            _ => {
                let said = String::from_utf8_lossy(&data);
                return Err(odd(&format!("refused: {}", said.trim_end())));
            }
        }
    }
}

/// What NBD_INFO_EXPORT says, where it is that.
fn about_export(data: &[u8]) -> Option<Export> {
    let (kind, rest) = data.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (flags, _) = rest.split_first_chunk()?;
    (u16::from_be_bytes(*kind) == INFO_EXPORT).then(|| Export {
        size_bytes: u64::from_be_bytes(*size),
        flags: u16::from_be_bytes(*flags),
    })
}

fn number(stream: &mut TcpStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn errno(number: u32) -> Errno {
    match number {
        1 | 30 => Errno::ReadOnly,
        22 => Errno::Invalid,
        28 => Errno::NoSpace,
        95 => Errno::NotSupported,
        _ => Errno::Io,
    }
}

fn odd(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
