//! The operator's options, with the words for what is wrong with them.

use crate::size::parse_size;
use crate::{OpenError, Store};

/// The options of one guest: all of them are known to it.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(&'a [(String, String)]);

impl<'a> Options<'a> {
    /// Takes what the operator gave.
    ///
    /// # Errors
    ///
    /// Names an option that `guest` does not know, and those that it does.
    pub fn new(
        guest: &str,
        known: &[&str],
        given: &'a [(String, String)],
    ) -> Result<Options<'a>, OpenError> {
        let unknown = given.iter().find(|(key, _)| !known.contains(&key.as_str()));
        if let Some((key, _)) = unknown {
            let known = known.join(", ");
            let text = format!("unknown option '{key}'; {guest} knows: {known}");
            return Err(OpenError::BadOption(text));
        }
        Ok(Options(given))
    }

    /// All values of an option, in the order given.
    pub fn all(self, key: &str) -> impl Iterator<Item = &'a str> {
        let of_key = move |(other, _): &&(String, String)| *other == key;
        self.0
            .iter()
            .filter(of_key)
            .map(|(_, value)| value.as_str())
    }

    /// The value of an option; the last where it comes twice.
    #[must_use]
    pub fn last(self, key: &str) -> Option<&'a str> {
        self.all(key).last()
    }

    /// A number of bytes, or another number, where the option is given.
    ///
    /// # Errors
    ///
    /// What is wrong with the value.
    pub fn size(self, key: &str) -> Result<Option<u64>, OpenError> {
        let Some(value) = self.last(key) else {
            return Ok(None);
        };
        let number = parse_size(value);
        number
            .map(Some)
            .map_err(|why| bad(format!("{key}={value}: {why}")))
    }

    /// `yes` or `no`; `no` where the option is not given.
    ///
    /// # Errors
    ///
    /// For any other word.
    pub fn is_yes(self, key: &str) -> Result<bool, OpenError> {
        match self.last(key) {
            None | Some("no") => Ok(false),
            Some("yes") => Ok(true),
            Some(value) => Err(bad(format!("{key}={value}: expected yes or no"))),
        }
    }

    /// The option `block`: the logical block in bytes, 512 unless it is given, and no less than what all of these
    /// stores take: one that passes by the system's cache takes whole blocks only.
    ///
    /// # Errors
    ///
    /// Where no device can have such blocks.
    pub fn block<'s>(self, stores: impl IntoIterator<Item = &'s Store>) -> Result<u32, OpenError> {
        let block = self.size("block")?.unwrap_or(512);
        let aligns = stores.into_iter().map(|store| store.align_bytes);
        match u32::try_from(block) {
            Ok(block) if block.is_power_of_two() && (512..=4096).contains(&block) => {
                Ok(aligns.fold(block, u32::max))
            }
            _ => Err(bad(format!("block={block}: expected 512, 1K, 2K or 4K"))),
        }
    }

    /// That a disk which has its size already has it in whole blocks.
    ///
    /// # Errors
    ///
    /// Where it has not.
    pub fn check_size(size_bytes: u64, block: u32) -> Result<(), OpenError> {
        if size_bytes.is_multiple_of(block.into()) {
            return Ok(());
        }
        Err(bad(format!(
            "the disk's {size_bytes} bytes are no multiple of the block of {block}: give a smaller one with --set \
             block=512, and stores without ':direct'"
        )))
    }

    /// The option `chunk`: a power of two from 4 KiB to 16 MiB, 64 KiB unless it is given.
    ///
    /// # Errors
    ///
    /// For any other size.
    pub fn chunk(self) -> Result<u64, OpenError> {
        let chunk = self.size("chunk")?.unwrap_or(64 << 10);
        if chunk.is_power_of_two() && (4 << 10..=16 << 20).contains(&chunk) {
            return Ok(chunk);
        }
        Err(bad(format!(
            "chunk={chunk}: expected a power of two from 4K to 16M"
        )))
    }
}

impl Store {
    /// The stores that an option names, `a,b,c`, each once.
    ///
    /// # Errors
    ///
    /// Where one is not granted, or named twice.
    pub fn need_all(key: &str, names: &str) -> Result<Vec<Store>, OpenError> {
        let names: Vec<&str> = names.split(',').collect();
        if let Some(twice) = (1..names.len()).find(|&at| names[..at].contains(&names[at])) {
            let name = names[twice];
            return Err(bad(format!(
                "{key}: store '{name}' is named twice; name each once"
            )));
        }
        names.into_iter().map(Store::need).collect()
    }
}

fn bad(text: String) -> OpenError {
    OpenError::BadOption(text)
}
