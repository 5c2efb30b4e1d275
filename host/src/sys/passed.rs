//! What a guest passes, taken from where it lies. wasmtime would copy it as a whole before anybody is asked, and has
//! one bound for all that is copied in a call; so what is long is not left to it.

use std::ptr::NonNull;
use std::slice;

use wasmtime::component::__internal::{CanonicalAbiInfo, InstanceType, InterfaceType, LiftContext};
use wasmtime::component::{ComponentType, Lift};
use wasmtime::{Result, ValRaw, bail, ensure};
use wasmtime_environ::component::StringEncoding;

use crate::limits;

/// Where bytes lie in a guest's memory, and how many, by the canonical ABI.
type Pair = [ValRaw; 2];

/// The flag of a length in `latin1+utf16` that says which of the two it is.
const UTF16: usize = 1 << 31;

/// A list of bytes that a guest passes to a function of the host, not copied.
#[derive(Debug)]
pub struct Passed {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is an address; who uses it has the store that it belongs to (`Passed::look`).
unsafe impl Send for Passed {}

// SAFETY: the same.
unsafe impl Sync for Passed {}

/// The same as the result of a function of the guest: copied, and no longer than the longest transfer.
#[derive(Debug)]
pub struct Taken(pub Vec<u8>);

/// A string that a guest passes: as much of its beginning as a line of the log can be.
#[derive(Debug)]
pub struct Words(pub String);

impl Passed {
    /// The bytes, for the function of the host that they were passed to, while it runs. A transfer of the guest's may
    /// change them meanwhile: they are read once, and what is checked is checked in the copy.
    pub fn look<T>(self, work: impl FnOnce(&[u8]) -> T) -> T {
        // SAFETY: `lift` has seen that they are inside the guest's memory. wasmtime makes such a value only as an
        // argument of a function of the host, and whoever has it there has the guest waiting: the memory stays, and
        // is not changed but by what the kernel may do to an arena, which changes bytes to other bytes.
        work(unsafe { slice::from_raw_parts(self.address.as_ptr(), self.bytes) })
    }

    /// How many.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn address(&self) -> NonNull<u8> {
        self.address
    }
}

/// The bytes that a pair names. An error ends the guest.
fn find<'a>(cx: &LiftContext<'a>, (begin, bytes): (usize, usize)) -> Result<&'a [u8]> {
    let end = begin.checked_add(bytes);
    let found = end.and_then(|end| cx.memory().get(begin..end));
    found.map_or_else(|| bail!("pointer/length out of bounds of memory"), Ok)
}

/// A value that is made of what a pair names.
trait OfPair: Sized {
    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()>;
    fn lift(cx: &LiftContext<'_>, pair: (usize, usize)) -> Result<Self>;
}

impl OfPair for Passed {
    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
        <[u8] as ComponentType>::typecheck(ty, types)
    }

    fn lift(cx: &LiftContext<'_>, pair: (usize, usize)) -> Result<Passed> {
        let found = find(cx, pair)?;
        Ok(Passed {
            address: NonNull::from_ref(found).cast(),
            bytes: found.len(),
        })
    }
}

impl OfPair for Taken {
    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
        <[u8] as ComponentType>::typecheck(ty, types)
    }

    fn lift(cx: &LiftContext<'_>, pair: (usize, usize)) -> Result<Taken> {
        let found = find(cx, pair)?;
        let most = limits::TRANSFER_BYTES_MAX;
        ensure!(
            found.len() <= most as usize,
            "it gave {} bytes where the most are {most}",
            found.len()
        );
        Ok(Taken(found.to_vec()))
    }
}

impl OfPair for Words {
    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
        <str as ComponentType>::typecheck(ty, types)
    }

    fn lift(cx: &LiftContext<'_>, (begin, length): (usize, usize)) -> Result<Words> {
        let compact = length & UTF16 == 0;
        let (unit, length) = match cx.options().string_encoding {
            StringEncoding::Utf8 => (1, length),
            StringEncoding::CompactUtf16 if compact => (1, length),
            StringEncoding::CompactUtf16 => (2, length ^ UTF16),
            StringEncoding::Utf16 => (2, length),
        };
        let all = find(cx, (begin, unit * length))?;
        // Each unit becomes at least a byte.
        let units = length.min(limits::GUEST_LOG_LINE_BYTES_MAX);
        let cut = &all[..unit * units];
        let is_cut = units < length;
        Ok(Words(match cx.options().string_encoding {
            StringEncoding::Utf8 => utf8(cut, is_cut)?,
            StringEncoding::CompactUtf16 if compact => cut.iter().map(|&c| char::from(c)).collect(),
            StringEncoding::CompactUtf16 | StringEncoding::Utf16 => utf16(cut, is_cut)?,
        }))
    }
}

/// What is cut may end within a character. It is copied before it is looked at: a transfer of the guest's may change
/// it meanwhile.
fn utf8(bytes: &[u8], is_cut: bool) -> Result<String> {
    let mut bytes = bytes.to_vec();
    if is_cut
        && let Err(why) = str::from_utf8(&bytes)
        && why.error_len().is_none()
    {
        bytes.truncate(why.valid_up_to());
    }
    Ok(String::from_utf8(bytes)?)
}

/// The same.
fn utf16(bytes: &[u8], is_cut: bool) -> Result<String> {
    let (units, _) = bytes.as_chunks::<2>();
    let mut units: Vec<u16> = units.iter().map(|&unit| u16::from_le_bytes(unit)).collect();
    if is_cut
        && units
            .last()
            .is_some_and(|last| (0xd800..0xdc00).contains(last))
    {
        units.pop();
    }
    Ok(String::from_utf16(&units)?)
}

macro_rules! lift_of_pair {
    ($($of:ty)*) => ($(
        // SAFETY: in memory and as an argument it is what a list of bytes is, or a string: a pair of an address and
        // a length, of which there are no wrong ones; and it is taken for a value of those types only.
        unsafe impl ComponentType for $of {
            type Lower = Pair;
            const ABI: CanonicalAbiInfo = CanonicalAbiInfo::POINTER_PAIR;

            fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
                <$of as OfPair>::typecheck(ty, types)
            }
        }

        // SAFETY: what the pair names is looked for in the guest's memory only (`find`). Guests have addresses of
        // 32 bits: others are off in the engine.
        unsafe impl Lift for $of {
            fn linear_lift_from_flat(
                cx: &mut LiftContext<'_>,
                _: InterfaceType,
                pair: &Pair,
            ) -> Result<Self> {
                let [begin, length] = [pair[0].get_u32(), pair[1].get_u32()];
                <$of as OfPair>::lift(cx, (begin as usize, length as usize))
            }

            fn linear_lift_from_memory(
                cx: &mut LiftContext<'_>,
                _: InterfaceType,
                bytes: &[u8],
            ) -> Result<Self> {
                let word = |at: usize| {
                    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
                    word.map(u32::from_le_bytes).unwrap_or_default() as usize
                };
                <$of as OfPair>::lift(cx, (word(0), word(4)))
            }
        }
    )*)
}

lift_of_pair! { Passed Taken Words }
