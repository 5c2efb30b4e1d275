//! `--net HOST:PORT`: where a guest may connect to, as words and as addresses.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::limits;

/// What an operator grants: nothing is looked up yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// A name, or an address.
    pub host: String,
    /// A port of TCP.
    pub port: u16,
}

/// Where a guest may connect to, with the addresses that the names had when the device began.
#[derive(Debug, Default)]
pub struct Remotes {
    /// By the words that granted them.
    all: Vec<(String, Vec<SocketAddr>)>,
    /// The first place where a guest wanted to connect to and may not.
    refused: OnceLock<SocketAddr>,
}

impl Remote {
    /// Reads `HOST:PORT`; the error says what is wrong.
    ///
    /// # Errors
    ///
    /// Where it is something else.
    pub fn new(words: &str) -> std::result::Result<Remote, &'static str> {
        let (host, port) = words.rsplit_once(':').ok_or("there is no ':'")?;
        let port: u16 = port
            .parse()
            .map_err(|_| "the port is no number up to 65535")?;
        let inside = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let is_host = match inside {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => Remote::is_name(host),
        };
        if port == 0 {
            return Err("there is no port 0");
        }
        if !is_host {
            return Err("the host is neither a name nor an address");
        }
        Ok(Remote {
            host: inside.unwrap_or(host).to_owned(),
            port,
        })
    }

    /// Whether a host can have this name.
    pub(super) fn is_name(host: &str) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        (1..=limits::HOST_BYTES_MAX).contains(&host.len()) && host.chars().all(plain)
    }

    /// Reads one `--net`.
    ///
    /// # Errors
    ///
    /// Says what is expected.
    pub fn parse(words: &str) -> Result<Remote> {
        Remote::new(words).map_err(|what| {
            Error::usage(format!(
                "--net {words}: {what}; expected HOST:PORT, such as disks.example.org:10809 or [::1]:80"
            ))
        })
    }

    /// Reads all of a command line.
    ///
    /// # Errors
    ///
    /// Names the first that is wrong.
    pub fn parse_all(words: &[String]) -> Result<Vec<Remote>> {
        words.iter().map(|words| Remote::parse(words)).collect()
    }

    /// Those of a policy file and a command line together.
    ///
    /// # Errors
    ///
    /// Where there are too many.
    pub fn join(mut all: Vec<Remote>, more: Vec<Remote>) -> Result<Vec<Remote>> {
        all.extend(more);
        let most = limits::REMOTES_MAX;
        if all.len() > most {
            return Err(Error::usage(format!("there are more than {most} of --net")));
        }
        Ok(all)
    }
}

impl Display for Remote {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Remote { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl Remotes {
    /// Looks all of them up.
    ///
    /// # Errors
    ///
    /// Names what has no address.
    pub fn look_up(granted: &[Remote]) -> Result<Remotes> {
        let look_up = |remote: &Remote| {
            let none = || Error::failed(format!("--net {remote}: the host has no address"));
            let found = (&*remote.host, remote.port).to_socket_addrs();
            let found = found.map_err(|why| none().because(why))?;
            let found: BTreeSet<SocketAddr> = found.take(limits::ADDRESSES_MAX).collect();
            if found.is_empty() {
                return Err(none());
            }
            Ok((remote.host.clone(), found.into_iter().collect()))
        };
        Ok(Remotes {
            all: granted.iter().map(look_up).collect::<Result<_>>()?,
            refused: OnceLock::new(),
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a guest may connect there; where it may not, that is remembered.
    pub(super) fn include_or_note(&self, address: SocketAddr) -> bool {
        let may = self.all.iter().any(|(_, known)| known.contains(&address));
        if !may {
            // Only the first.
            let _ = self.refused.set(address);
        }
        may
    }

    /// The first place where a guest wanted to connect to and may not.
    pub(in crate::guest) fn refused(&self) -> Option<SocketAddr> {
        self.refused.get().copied()
    }

    /// The ports, each once.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let all = self.all.iter().flat_map(|(_, known)| known);
        let ports: BTreeSet<u16> = all.map(SocketAddr::port).collect();
        ports.into_iter().collect()
    }

    /// The addresses of a name that was granted, each once.
    pub(super) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let of_name = self
            .all
            .iter()
            .filter(|(host, _)| host.eq_ignore_ascii_case(name));
        let all: BTreeSet<IpAddr> = of_name
            .flat_map(|(_, known)| known)
            .map(SocketAddr::ip)
            .collect();
        all.into_iter().take(limits::ADDRESSES_MAX).collect()
    }
}
