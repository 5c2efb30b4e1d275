//! Policy files: what a guest is granted and may use, in a form that can be reviewed. A file is read once, and
//! every word of it is checked then; the names are those of the options.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::cli::GuestLimits;
use crate::error::{Error, Result};
use crate::guest::{Allowed, Directory, Part, Remote, Source};
use crate::limits;
use crate::store::Grant;
use crate::wanted::parse_pair;

/// What a file says. What it does not say is left to the command line and the defaults.
#[derive(Debug, Default)]
pub struct Policy {
    /// The digest that the guest must have, and where the file says so.
    digest: Option<(String, String)>,
    /// Options for the guest.
    pub options: Vec<(String, String)>,
    /// Stores, by name.
    pub stores: Vec<Grant>,
    /// What of WASI the guest is granted.
    pub allowed: Allowed,
    /// What the guest may use.
    pub limits: GuestLimits,
    /// Hardware queues.
    pub queues: Option<u16>,
    /// Requests in flight on each.
    pub depth: Option<u16>,
}

/// The remedy where the file is no TOML, or has a wrong key or type.
const EXAMPLE: &str =
    "lines are such as: memory_mib = 64, set = [\"size=10G\"], stores.data = { path = \"PATH\" }";

/// The file's keys.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    digest: Option<Spanned<String>>,
    set: Vec<Spanned<String>>,
    stores: BTreeMap<String, Spanned<WrittenStore>>,
    allow: Vec<Part>,
    env: Vec<Spanned<String>>,
    net: Vec<Spanned<String>>,
    dirs: BTreeMap<String, Spanned<WrittenDirectory>>,
    memory_mib: Option<Spanned<u64>>,
    deadline: Option<Spanned<u64>>,
    cpu_percent: Option<Spanned<u64>>,
    log_lines: Option<Spanned<u64>>,
    transfer_kib: Option<Spanned<u64>>,
    compile_seconds: Option<Spanned<u64>>,
    compile_mib: Option<Spanned<u64>>,
    queues: Option<Spanned<u64>>,
    depth: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{ path = \"PATH\" }")]
struct WrittenStore {
    path: PathBuf,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    direct: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{ path = \"PATH\" }")]
struct WrittenDirectory {
    path: PathBuf,
    #[serde(default)]
    read_only: bool,
}

/// A file's text, for saying where in it something is wrong.
struct Text<'a> {
    path: &'a Path,
    text: String,
}

impl Policy {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Names the file and the line, and says what would be right.
    pub fn read(path: &Path) -> Result<Policy> {
        Policy::of(&Text::read(path)?)
    }

    /// The same of a file's content.
    ///
    /// # Errors
    ///
    /// As [`Policy::read`].
    pub fn parse(path: &Path, text: String) -> Result<Policy> {
        Policy::of(&Text { path, text })
    }

    fn of(text: &Text<'_>) -> Result<Policy> {
        let written: Written = toml::from_str(&text.text).map_err(|why| {
            let at = why.span().unwrap_or_default();
            text.wrong(&at, &format!("{}; {EXAMPLE}", why.message()))
        })?;
        let limits = GuestLimits {
            memory_mib: text.number("memory_mib", written.memory_mib, &limits::MEMORY_MIB)?,
            deadline: text.number("deadline", written.deadline, &limits::DEADLINE_SECONDS)?,
            cpu_percent: text.number("cpu_percent", written.cpu_percent, &limits::CPU_PERCENT)?,
            log_lines: text.number("log_lines", written.log_lines, &limits::LOG_LINES)?,
            transfer_kib: text.transfer(written.transfer_kib)?,
            compile_seconds: text.number(
                "compile_seconds",
                written.compile_seconds,
                &limits::COMPILE_SECONDS,
            )?,
            compile_mib: text.number("compile_mib", written.compile_mib, &limits::COMPILE_MIB)?,
        };
        let options = text.pairs("set", "size=10G", &written.set)?;
        let allowed = Allowed {
            parts: written.allow,
            env: text.pairs("env", "LANG=C", &written.env)?,
            remotes: written
                .net
                .iter()
                .map(|it| text.remote(it))
                .collect::<Result<_>>()?,
            directories: (written.dirs.iter())
                .map(|(name, directory)| text.directory(name, directory))
                .collect::<Result<_>>()?,
        };
        let stores = written.stores.into_iter();
        Ok(Policy {
            digest: written.digest.map(|it| text.digest(&it)).transpose()?,
            options,
            allowed,
            stores: stores
                .map(|(name, store)| text.store(&name, &store))
                .collect::<Result<_>>()?,
            limits,
            queues: text.small("queues", written.queues, limits::QUEUES_MAX)?,
            depth: text.small("depth", written.depth, limits::DEPTH_MAX)?,
        })
    }

    /// Whether the guest is the one that the file is about, where it names one.
    ///
    /// # Errors
    ///
    /// Where it is another.
    pub fn check(&self, source: &Source) -> Result<()> {
        match &self.digest {
            Some((digest, place)) if *digest != source.digest => Err(Error::usage(format!(
                "{place}: the guest must have the digest {digest}, and {} has {}; if it is the right file, \
                 'digest' must be that",
                source.path.display(),
                source.digest
            ))),
            _ => Ok(()),
        }
    }
}

impl<'a> Text<'a> {
    fn read(path: &'a Path) -> Result<Text<'a>> {
        let shown = path.display();
        let cannot = |why| Error::usage(format!("cannot read --policy {shown}")).because(why);
        let file = File::open(path).map_err(cannot)?;
        let about = file.metadata().map_err(cannot)?;
        if about.is_file() && about.mode() & 0o002 != 0 {
            return Err(Error::usage(format!(
                "--policy {shown} can be written by everybody, who could grant what he likes; try 'chmod o-w'"
            )));
        }
        let mut text = String::new();
        let bytes = file
            .take(limits::POLICY_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(cannot)?;
        if bytes as u64 > limits::POLICY_BYTES_MAX {
            let most = limits::POLICY_BYTES_MAX >> 10;
            return Err(Error::usage(format!(
                "--policy {shown} is longer than {most} KiB: not a policy file"
            )));
        }
        Ok(Text { path, text })
    }

    /// File and line.
    fn place(&self, at: &Range<usize>) -> String {
        let before = self.text.bytes().take(at.start);
        let line = 1 + before.filter(|byte| *byte == b'\n').count();
        format!("{}:{line}", self.path.display())
    }

    fn wrong(&self, at: &Range<usize>, what: &str) -> Error {
        Error::usage(format!("{}: {what}", self.place(at)))
    }

    fn number(
        &self,
        key: &str,
        written: Option<Spanned<u64>>,
        range: &RangeInclusive<u64>,
    ) -> Result<Option<u64>> {
        let Some(written) = written else {
            return Ok(None);
        };
        let number = *written.get_ref();
        if !range.contains(&number) {
            let (least, most) = (range.start(), range.end());
            let what = format!("{key} = {number}: expected {least} to {most}");
            return Err(self.wrong(&written.span(), &what));
        }
        Ok(Some(number))
    }

    fn small(&self, key: &str, written: Option<Spanned<u64>>, most: u16) -> Result<Option<u16>> {
        let number = self.number(key, written, &(1..=u64::from(most)))?;
        Ok(number.and_then(|number| u16::try_from(number).ok()))
    }

    fn transfer(&self, written: Option<Spanned<u64>>) -> Result<Option<u64>> {
        let at = written.as_ref().map(Spanned::span).unwrap_or_default();
        let kib = self.number("transfer_kib", written, &limits::TRANSFER_KIB)?;
        match kib {
            Some(kib) if !kib.is_multiple_of(4) => {
                let what = format!("transfer_kib = {kib}: expected a multiple of 4");
                Err(self.wrong(&at, &what))
            }
            kib => Ok(kib),
        }
    }

    fn pairs(
        &self,
        key: &str,
        example: &str,
        written: &[Spanned<String>],
    ) -> Result<Vec<(String, String)>> {
        let pair = |written: &Spanned<String>| {
            let pair = written.get_ref();
            parse_pair(pair).ok_or_else(|| {
                let what =
                    format!("{key} = [\"{pair}\"]: expected \"KEY=VALUE\", such as \"{example}\"");
                self.wrong(&written.span(), &what)
            })
        };
        written.iter().map(pair).collect()
    }

    fn digest(&self, written: &Spanned<String>) -> Result<(String, String)> {
        let digest = written.get_ref().to_ascii_lowercase();
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let what = format!(
                "digest = \"{digest}\": expected 64 hexadecimal digits, as 'wasmblk inspect' shows them"
            );
            return Err(self.wrong(&written.span(), &what));
        }
        Ok((digest, self.place(&written.span())))
    }

    fn store(&self, name: &str, written: &Spanned<WrittenStore>) -> Result<Grant> {
        let WrittenStore {
            path,
            read_only,
            direct,
        } = written.get_ref();
        let wrong = |what: &str| {
            let what = format!(
                "store '{name}': {what}; expected stores.NAME = {{ path = \"PATH\" }}, and inside the braces \
                 read_only = true to keep the guest from writing, direct = true to pass by the system's cache"
            );
            self.wrong(&written.span(), &what)
        };
        Grant::new(name, &self.whole(path), *read_only, *direct).map_err(wrong)
    }

    fn directory(&self, name: &str, written: &Spanned<WrittenDirectory>) -> Result<Directory> {
        let WrittenDirectory { path, read_only } = written.get_ref();
        let wrong = |what: &str| {
            let what = format!(
                "directory '{name}': {what}; expected dirs.\"/NAME\" = {{ path = \"PATH\" }}, and inside the braces \
                 read_only = true to keep the guest from writing"
            );
            self.wrong(&written.span(), &what)
        };
        Directory::new(name, &self.whole(path), *read_only).map_err(wrong)
    }

    fn remote(&self, written: &Spanned<String>) -> Result<Remote> {
        let words = written.get_ref();
        Remote::new(words).map_err(|what| {
            let what = format!("net = [\"{words}\"]: {what}; expected \"HOST:PORT\"");
            self.wrong(&written.span(), &what)
        })
    }

    /// Paths are from the file's folder on, so that it does not matter where the command is called.
    fn whole(&self, path: &Path) -> PathBuf {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        if path.as_os_str().is_empty() {
            path.to_owned()
        } else {
            folder.join(path)
        }
    }
}
