//! The copy itself: read, see what is zero, write. One buffer, and what is zero is not sent where that can be.

use super::end::End;
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::sys::AlignedBytes;

/// What is looked at as a whole, to be zero or not: for less, asking for zeros costs more than sending them.
pub(super) const GRAIN_BYTES: usize = 64 << 10;

/// What is written where zeros have to be; on pages, as disks want it.
static ZEROS: OnPages = OnPages([0; GRAIN_BYTES]);

#[repr(align(4096))]
struct OnPages([u8; GRAIN_BYTES]);

/// Longest range of zeros that is asked for at a time, so that progress is seen.
const ZERO_BYTES_MAX: u64 = 256 << 20;

/// Whether a source fits a target, in size as far as that is known, and by the target's blocks: asked before the first
/// byte is written.
///
/// # Errors
///
/// Says what does not fit, and what to do about it.
pub fn check_fits(source: &End, target: &End) -> Result<()> {
    let (from, to) = (&source.shown, &target.shown);
    let same = source.is_same(target);
    if same.doing(|| format!("cannot compare {from} and {to}"))? {
        return Err(Error::usage(format!("{from} and {to} are the same")));
    }
    let Some(bytes) = source.size_bytes else {
        return Ok(());
    };
    if let Some(room) = target.size_bytes.filter(|room| bytes > *room) {
        return Err(Error::failed(format!(
            "{from} has {bytes} bytes, {to} only {room}; nothing was written"
        )));
    }
    whole_blocks(from, bytes, target, "nothing was written")
}

fn whole_blocks(from: &str, bytes: u64, target: &End, written: &str) -> Result<()> {
    let block = target.block_bytes;
    if bytes.is_multiple_of(block.into()) {
        return Ok(());
    }
    let to = &target.shown;
    Err(Error::failed(format!(
        "{from} has {bytes} bytes, and {to} has blocks of {block}; {written}; 'truncate -s %{block}' fills up a file"
    )))
}

/// Copies all of `source` to the begin of `target`, and makes it durable. What lies behind stays as it is. `progress`
/// is told how many bytes are done, now and then. Gives how many it were.
///
/// # Errors
///
/// Which end failed, where and why. What came before is written.
pub fn copy(source: &mut End, target: &mut End, progress: &mut dyn FnMut(u64)) -> Result<u64> {
    let buffer = AlignedBytes::new(limits::IMAGE_BUFFER_BYTES);
    let mut buffer = buffer.doing(|| "no memory for a buffer".into())?;
    let mut at = 0;
    loop {
        progress(at);
        let hole = source.hole(at).min(ZERO_BYTES_MAX);
        if hole > 0 {
            zero(target, at, hole)?;
            at += hole;
            continue;
        }
        let data = buffer.bytes_mut();
        let bytes = read(source, at, data)?;
        if bytes == 0 {
            break;
        }
        let data = &data[..bytes];
        at += bytes as u64;
        check_end(source, target, at, bytes < limits::IMAGE_BUFFER_BYTES)?;
        write(target, at - bytes as u64, data)?;
    }
    target.finish()?;
    progress(at);
    Ok(at)
}

/// Fills the buffer, as far as the source goes.
fn read(source: &mut End, at: u64, data: &mut [u8]) -> Result<usize> {
    let left = source
        .size_bytes
        .map_or(u64::MAX, |size| size.saturating_sub(at));
    let wanted = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
    let bytes = source.fill(at, &mut data[..wanted])?;
    match source.size_bytes {
        Some(size) if bytes < wanted => Err(Error::failed(format!(
            "{} ended at byte {} of {size}; what came before is written",
            source.shown,
            at + bytes as u64
        ))),
        _ => Ok(bytes),
    }
}

/// The same as [`check_fits`] for a source whose size shows at its end.
fn check_end(source: &End, target: &End, at: u64, is_end: bool) -> Result<()> {
    if source.size_bytes.is_some() {
        return Ok(());
    }
    if let Some(room) = target.size_bytes.filter(|room| at > *room) {
        return Err(Error::failed(format!(
            "{} has more than the {room} bytes of {}; what came before is written",
            source.shown, target.shown
        )));
    }
    if is_end {
        whole_blocks(&source.shown, at, target, "the last block was not written")?;
    }
    Ok(())
}

/// Writes data, but for the zeros in it.
fn write(target: &mut End, at: u64, data: &[u8]) -> Result<()> {
    let is_zero = |grain: &&[u8]| **grain == ZEROS.0[..grain.len()];
    let mut done = 0;
    while done < data.len() {
        let rest = &data[done..];
        let zeros = rest
            .chunks(GRAIN_BYTES)
            .take_while(is_zero)
            .map(<[u8]>::len)
            .sum::<usize>();
        if zeros > 0 {
            zero(target, at + done as u64, zeros as u64)?;
            done += zeros;
            continue;
        }
        let others = rest.chunks(GRAIN_BYTES).take_while(|grain| !is_zero(grain));
        let bytes = others.map(<[u8]>::len).sum::<usize>();
        target.write(at + done as u64, &rest[..bytes])?;
        done += bytes;
    }
    Ok(())
}

fn zero(target: &mut End, at: u64, bytes: u64) -> Result<()> {
    if target.zero(at, bytes)? {
        return Ok(());
    }
    let mut done = 0;
    while done < bytes {
        let step = (bytes - done).min(GRAIN_BYTES as u64);
        let zeros = usize::try_from(step).map_or(&ZEROS.0[..], |step| &ZEROS.0[..step]);
        target.write(at + done, zeros)?;
        done += step;
    }
    Ok(())
}
