//! What the command line calls the ends of a copy.

use std::path::Path;

use crate::error::{Error, Result};

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// `-`: standard input or output.
    Standard,
    /// `fd:N`: a file that whoever started this process left open.
    Inherited(i32),
    /// Everything else.
    Path(&'a Path),
}

impl Word<'_> {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// Where `fd:` has no number behind it.
    pub fn parse(word: &Path) -> Result<Word<'_>> {
        if word.as_os_str() == "-" {
            return Ok(Word::Standard);
        }
        match word.to_str().and_then(|text| text.strip_prefix("fd:")) {
            None => Ok(Word::Path(word)),
            Some(number) => match number.parse() {
                Ok(number @ 0..) => Ok(Word::Inherited(number)),
                _ => Err(Error::usage(format!(
                    "{}: expected fd:N with the number of an open file; './' before it makes it a path",
                    word.display()
                ))),
            },
        }
    }
}
