//! `remote`: the export of an NBD server elsewhere, over TCP. Whoever writes a client for another protocol begins
//! here: this one is a sandboxed program that may talk to one port of one host.
//!
//! Options: `at`, the server as `HOST:PORT` (required; the same needs `--net`), `export`, its name there ("").
//!
//! A connection that breaks is made anew, unless writes wait for a flush: nobody knows then what became of them,
//! and every later request fails. A server that does not answer is waited for as long as the deadline lets one request.

mod client;

use std::cell::RefCell;

use wasmblk_guest::{Disk, Errno, Features, Info, Level, OpenError, Options, log};

use self::client::{Client, Export, Request};

struct Remote {
    at: String,
    name: String,
    export: Export,
    link: RefCell<Link>,
}

/// What there is of a connection.
struct Link {
    client: Option<Client>,
    /// Writes were answered since the last flush.
    is_dirty: bool,
    /// It broke when it was dirty.
    is_lost: bool,
}

impl Remote {
    /// The client that there is, or another one, of an export that is still the same.
    fn client<'a>(&self, link: &'a mut Link) -> Option<&'a mut Client> {
        if link.client.is_none() && !link.is_lost {
            match Client::connect(&self.at, &self.name) {
                Ok(client) if client.export == self.export => link.client = Some(client),
                Ok(_) => {
                    self.warn("it has another size or other flags than before: add the device anew")
                }
                Err(error) => self.warn(&format!("no other connection: {error}")),
            }
        }
        link.client.as_mut()
    }

    fn warn(&self, what: &str) {
        let Remote { at, name, .. } = self;
        log(Level::Warn, &format!("export '{name}' at {at}: {what}"));
    }

    /// Sends a request, and once more by another connection.
    fn ask(&self, mut request: Request<'_>) -> Result<(), Errno> {
        let link = &mut *self.link.borrow_mut();
        for _ in 0..2 {
            let client = self.client(link).ok_or(Errno::Io)?;
            match client.ask(&mut request) {
                Ok(result) => {
                    if result.is_ok() {
                        link.is_dirty =
                            self.export.has(Export::FLUSH) && request.is_dirty_after(link.is_dirty);
                    }
                    return result;
                }
                Err(error) => {
                    self.warn(&format!("the connection broke: {error}"));
                    link.client = None;
                    link.is_lost = link.is_dirty;
                    if link.is_lost {
                        self.warn("writes may be lost: add the device anew");
                    }
                }
            }
        }
        Err(Errno::Io)
    }
}

impl Disk for Remote {
    fn open(options: &[(String, String)]) -> Result<(Remote, Info), OpenError> {
        let options = Options::new("remote", &["at", "export"], options)?;
        let missing = || OpenError::BadOption("at=HOST:PORT says where the server is".into());
        let at = options.last("at").ok_or_else(missing)?.to_owned();
        let name = options.last("export").unwrap_or_default().to_owned();
        let why = |error| OpenError::Other(format!("export '{name}' at {at}: {error}"));
        let client = Client::connect(&at, &name).map_err(why)?;
        let export = client.export;
        let info = info(export).with_read_only(export.has(Export::READ_ONLY));
        let link = RefCell::new(Link {
            client: Some(client),
            is_dirty: false,
            is_lost: false,
        });
        let disk = Remote {
            at,
            name,
            export,
            link,
        };
        Ok((disk, info))
    }

    async fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.ask(Request::Read(offset, data))
    }

    async fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        self.ask(Request::Write(offset, data, fua))
    }

    async fn flush(&self) -> Result<(), Errno> {
        if !self.export.has(Export::FLUSH) {
            return Ok(());
        }
        self.ask(Request::Flush)
    }

    async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        self.ask(Request::Trim(offset, length))
    }

    async fn write_zeroes(&self, offset: u64, length: u32, may_discard: bool) -> Result<(), Errno> {
        self.ask(Request::WriteZeroes(offset, length, may_discard))
    }
}

fn info(export: Export) -> Info {
    let mut info = Info::new(export.size_bytes / 512 * 512);
    for (has, feature) in [
        (!export.has(Export::FLUSH), Features::WRITE_THROUGH),
        (export.has(Export::FUA), Features::FUA),
    ] {
        if has {
            info.features = info.features | feature;
        }
    }
    let most = |flag| if export.has(flag) { 1 << 30 } else { 0 };
    info.max_discard_bytes = most(Export::TRIM);
    info.max_write_zeroes_bytes = most(Export::WRITE_ZEROES);
    info
}

wasmblk_guest::export_device!(Remote);
