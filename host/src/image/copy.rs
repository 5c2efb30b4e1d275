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
/// byte is written, when both are kept for this copy.
fn begin(source: &mut End, target: &mut End) -> Result<()> {
    let (from, to) = (&source.shown, &target.shown);
    let same = source.is_same(target);
    if same.doing(|| format!("cannot compare {from} and {to}"))? {
        return Err(Error::usage(format!("{from} and {to} are the same")));
    }
    source.claim()?;
    target.claim()?;
    let Some(bytes) = source.size_bytes else {
        return Ok(());
    };
    let (from, to) = (&source.shown, &target.shown);
    if let Some(room) = target.size_bytes.filter(|room| bytes > *room) {
        return Err(Error::failed(format!(
            "{from} has {bytes} bytes, {to} only {room}; nothing was written"
        )));
    }
    if !bytes.is_multiple_of(target.block_bytes.into()) {
        return Err(not_whole(from, bytes, target, "nothing was written"));
    }
    target.make_room(bytes)
}

fn not_whole(from: &str, bytes: u64, target: &End, written: &str) -> Error {
    let (to, block) = (&target.shown, target.block_bytes);
    Error::failed(format!(
        "{from} has {bytes} bytes, and {to} has blocks of {block}; {written}; 'truncate -s %{block}' fills up a file"
    ))
}

/// Copies all of `source` to the begin of `target`, and makes it durable. What lies behind stays as it is. `progress`
/// is told how many bytes are done, now and then. Gives how many it were.
///
/// # Errors
///
/// What does not fit, or is in use, before anything is written. Which end failed, where and why; what came before is
/// written.
pub fn copy(source: &mut End, target: &mut End, progress: &mut dyn FnMut(u64)) -> Result<u64> {
    let buffer = AlignedBytes::new(limits::IMAGE_BUFFER_BYTES);
    let mut buffer = buffer.doing(|| "no memory for a buffer".into())?;
    begin(source, target)?;
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
        let fits = fitting(target, at, bytes);
        write(target, at, &data[..fits])?;
        if fits < bytes {
            return Err(does_not_fit(source, target, at + bytes as u64));
        }
        at += bytes as u64;
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
            "{} ended at byte {} of {size}; what came before byte {at} is written",
            source.shown,
            at + bytes as u64
        ))),
        _ => Ok(bytes),
    }
}

/// How many of the bytes that come next a target has room for, in whole blocks: all, but at the end of a source whose
/// size shows only there.
fn fitting(target: &End, at: u64, bytes: usize) -> usize {
    let end = at + bytes as u64;
    let end = target.size_bytes.map_or(end, |room| end.min(room));
    let whole = end - end % u64::from(target.block_bytes);
    usize::try_from(whole.saturating_sub(at)).unwrap_or(bytes)
}

/// What is wrong with a source of which that many bytes came.
fn does_not_fit(source: &End, target: &End, bytes: u64) -> Error {
    let (from, to) = (&source.shown, &target.shown);
    if let Some(room) = target.size_bytes.filter(|room| bytes > *room) {
        return Error::failed(format!(
            "{from} has more than the {room} bytes of {to}; what came before is written"
        ));
    }
    not_whole(from, bytes, target, "the last block was not written")
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
