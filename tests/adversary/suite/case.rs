//! One hostile guest, and what becomes of it.

/// How it ends. The words are those of the error or reason that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is not taken: refused before any of its code runs, or in its `open`.
    Refused(&'static str),
    /// It opens, and its instance is ended by a request, which is EIO.
    Ended(&'static str),
    /// Requests have errors, and it goes on.
    Errors,
    /// It serves: what it tries has no effect.
    Serves,
    /// One of these, whichever: for values that may happen to be right.
    Contained,
}

/// One hostile guest.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: End,
}

impl Case {
    pub(crate) fn new(name: impl Into<String>, bytes: Vec<u8>, end: End) -> Case {
        Case {
            name: name.into(),
            bytes,
            end,
        }
    }
}
