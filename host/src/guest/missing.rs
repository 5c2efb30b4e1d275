//! What a guest looked for and was not granted.

use std::net::SocketAddr;

use crate::limits;
use crate::store::Grant;

/// One thing; only what could be granted under that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// A store.
    Store(String),
    /// A host, whatever the port.
    Host(String),
    /// A port of a host.
    Address(SocketAddr),
    /// Any host: it made a socket.
    Hosts,
    /// Any directory: it asked which there are.
    Directories,
}

/// All that is known, in the order in which it was looked for.
#[derive(Debug, Default)]
pub(super) struct AllMissing(Vec<Missing>);

impl AllMissing {
    /// Notes one, once, while there is room.
    pub(super) fn note(&mut self, missing: Missing) {
        if self.0.len() < limits::MISSING_MAX && !self.0.contains(&missing) {
            self.0.push(missing);
        }
    }

    /// How to grant them, and where it was not let connect to, if there are any.
    pub(super) fn remedy(&self, refused: Option<SocketAddr>) -> Option<String> {
        let refused = refused.map(Missing::Address);
        let all: Vec<String> = self.0.iter().chain(&refused).map(Missing::remedy).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

impl Missing {
    fn remedy(&self) -> String {
        let (what, option, line) = match self {
            Missing::Store(name) => (
                format!("the store '{name}', which is not granted"),
                format!("--store {name}=PATH"),
                Grant::line(name),
            ),
            Missing::Host(name) => (
                format!("the host '{name}', which is not granted"),
                format!("--net {name}:PORT"),
                format!("net = [\"{name}:PORT\"]"),
            ),
            Missing::Address(address) => (
                format!("{address}, which is not granted"),
                format!("--net {address}"),
                format!("net = [\"{address}\"]"),
            ),
            Missing::Hosts => (
                "a network, and no host is granted".to_owned(),
                "--net HOST:PORT".to_owned(),
                "net = [\"HOST:PORT\"]".to_owned(),
            ),
            Missing::Directories => (
                "its directories, and none is granted".to_owned(),
                "--dir /NAME=PATH".to_owned(),
                "dirs.\"/NAME\" = { path = \"PATH\" }".to_owned(),
            ),
        };
        format!(
            "it looked for {what}: give {option}, or put this line into the policy file, above its first [table]: \
             {line}"
        )
    }
}
