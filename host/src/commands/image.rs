//! `wasmblk import` and `wasmblk export`.

use std::fs;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::human_size;
use crate::cli::{Export, Import};
use crate::error::{Error, Result};
use crate::image::{End, Part, Role, Word, cannot_open, copy};
use crate::plane::{self, RunDir};

pub(super) fn import(import: &Import, run_dir: impl Fn() -> Result<RunDir>) -> Result<()> {
    let mut device = device(&import.device, Role::Target, run_dir)?;
    let mut image = End::open(&Word::parse(&import.image)?, Role::Source)?;
    show_copy(&mut image, &mut device, import.progress)
}

pub(super) fn export(export: &Export, run_dir: impl Fn() -> Result<RunDir>) -> Result<()> {
    let word = Word::parse(&export.image)?;
    let mut device = device(&export.device, Role::Source, run_dir)?;
    if let (Word::Path(path), Some(bytes)) = (&word, device.size_bytes)
        && is_to_be_made(path, export.force)?
    {
        let (part, mut image) = Part::begin(path, bytes, export.force)?;
        show_copy(&mut device, &mut image, export.progress)?;
        return part.end();
    }
    if word == Word::Standard && io::stdout().is_terminal() {
        return Err(Error::usage(
            "the standard output is a terminal; send it elsewhere",
        ));
    }
    let mut image = End::open(&word, Role::Target)?.growing();
    show_copy(&mut device, &mut image, export.progress)
}

/// Neither command makes sense of a stream in place of a device. A device of this user's has a path also where no node
/// of it is seen, as in a container: then its processes give what they have.
fn device(path: &Path, role: Role, run_dir: impl Fn() -> Result<RunDir>) -> Result<End> {
    let word = Word::parse(path)?;
    if word == Word::Standard {
        return Err(Error::usage("the device cannot be '-'; the image can"));
    }
    let id = path.to_str().and_then(|it| it.strip_prefix("/dev/ublkb"));
    let id = id.and_then(|id| id.parse().ok()).filter(|_| !path.exists());
    let socket = id.map(|id| run_dir().map(|dir| dir.socket(id)));
    match socket.transpose()?.filter(|socket| socket.exists()) {
        Some(socket) => {
            let shown = path.display().to_string();
            let file = plane::open(&socket, role == Role::Source);
            End::of(file.map_err(|why| cannot_open(&shown, why))?, &shown, role)
        }
        None => End::open(&word, role),
    }
}

/// Whether an image becomes a new file; a disk is written as it is.
fn is_to_be_made(path: &Path, force: bool) -> Result<bool> {
    let shown = path.display();
    match fs::metadata(path) {
        Err(why) if why.kind() == ErrorKind::NotFound && path.is_symlink() => Err(Error::failed(
            format!("{shown} is a link that leads nowhere; remove it, or make what it leads to"),
        )),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(true),
        Err(why) => Err(Error::failed(format!("cannot make {shown}")).because(why)),
        Ok(about) if about.file_type().is_block_device() => Ok(false),
        Ok(about) if about.is_file() && force => Ok(true),
        Ok(about) if about.is_file() => Err(Error::failed(format!(
            "{shown} exists already; --force replaces it"
        ))),
        Ok(_) => Err(Error::failed(format!(
            "{shown} is neither a file nor a block device"
        ))),
    }
}

fn show_copy(source: &mut End, target: &mut End, wanted: bool) -> Result<()> {
    let mut progress = Progress::new(source.size_bytes, wanted);
    let bytes = copy(source, target, &mut |bytes| progress.show(bytes))?;
    progress.end(bytes);
    Ok(())
}

/// What is done, on standard error.
struct Progress {
    how: How,
    total: Option<u64>,
    next: Instant,
    /// A line of a terminal has been begun.
    open_line: bool,
}

enum How {
    Not,
    /// One line that changes.
    Line,
    /// One line after the other.
    Lines,
}

impl Progress {
    fn new(total: Option<u64>, wanted: bool) -> Progress {
        let how = match (io::stderr().is_terminal(), wanted) {
            (true, _) => How::Line,
            (false, true) => How::Lines,
            (false, false) => How::Not,
        };
        let mut this = Progress {
            next: Instant::now(),
            how,
            total,
            open_line: false,
        };
        this.next += this.interval();
        this
    }

    fn interval(&self) -> Duration {
        match self.how {
            How::Line => Duration::from_millis(200),
            How::Lines | How::Not => Duration::from_secs(1),
        }
    }

    fn show(&mut self, bytes: u64) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + self.interval();
            self.write(bytes);
        }
    }

    fn end(mut self, bytes: u64) {
        self.write(bytes);
    }

    fn write(&mut self, bytes: u64) {
        let done = human_size(bytes);
        let text = match self.total {
            Some(total @ 1..) => {
                let percent = u128::from(bytes) * 100 / u128::from(total);
                format!("{percent:>3}%  {done} of {}", human_size(total))
            }
            _ => done,
        };
        // Nobody looks: no reason to end.
        let _ = match self.how {
            How::Not => Ok(()),
            How::Line => write!(io::stderr(), "\r{text}\x1b[K"),
            How::Lines => writeln!(io::stderr(), "{text}"),
        };
        self.open_line = matches!(self.how, How::Line);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.open_line {
            let _ = writeln!(io::stderr());
        }
    }
}
