//! Errors of start-up and control, with their exit codes. Errors of single requests are
//! [`Errno`](crate::block::Errno).

use std::error::Error as StdError;
use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits;
use crate::text::printable;

/// Whose turn it is after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The command line, an option or the guest's file is wrong: exit code 2.
    Usage,
    /// It was right, and could not be done: exit code 1.
    Failed,
}

/// One sentence that names the thing and the remedy, with what caused it.
#[derive(Debug, Error)]
#[expect(
    clippy::error_impl_error,
    reason = "the one error of start-up and control"
)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of start-up and control.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The command line, an option or the guest's file is wrong.
    pub fn usage(message: impl Into<String>) -> Error {
        Error {
            kind: Kind::Usage,
            message: message.into(),
            source: None,
        }
    }

    /// It was right, and could not be done.
    pub fn failed(message: impl Into<String>) -> Error {
        Error {
            kind: Kind::Failed,
            message: message.into(),
            source: None,
        }
    }

    /// With what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// Whose turn it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The whole chain in one line, as it is printed. Some of its words may be a guest's.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        printable(&text, limits::MESSAGE_BYTES_MAX)
    }
}

/// Says what was being done when the system refused it.
pub trait Context<T> {
    /// Makes an error of kind [`Kind::Failed`] with this message.
    ///
    /// # Errors
    ///
    /// Where there was one before.
    fn doing(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn doing(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::failed(message()).because(source.into()))
    }
}
