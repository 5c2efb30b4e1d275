//! Which bytes of reads' data were written, where that data lies with the host: a read is done only when all
//! of them were, so that nothing old comes to light.

/// What is known of data: whole sectors.
const SECTOR_BYTES: u32 = 512;

/// For each tag, one bit for each sector of its data.
#[derive(Debug)]
pub(super) struct Coverage {
    words: Box<[u64]>,
    words_of_tag: usize,
    /// Sectors of each tag that are missing.
    missing: Box<[u32]>,
}

impl Coverage {
    pub(super) fn new(depth: u32, bytes_max: u32) -> Coverage {
        let words_of_tag = bytes_max.div_ceil(SECTOR_BYTES * u64::BITS) as usize;
        Coverage {
            words: vec![0; words_of_tag * depth as usize].into(),
            words_of_tag,
            missing: vec![0; depth as usize].into(),
        }
    }

    pub(super) fn is_whole_sectors(offset: u32, length: u32) -> bool {
        offset.is_multiple_of(SECTOR_BYTES) && length.is_multiple_of(SECTOR_BYTES)
    }

    /// A read begins: nothing of it is there. Apart, as most guests have no use for it.
    #[inline(never)]
    pub(super) fn begin(&mut self, tag: u32, length: u32) {
        self.missing[tag as usize] = length.div_ceil(SECTOR_BYTES);
        let used = length.div_ceil(SECTOR_BYTES * u64::BITS) as usize;
        self.words[tag as usize * self.words_of_tag..][..used].fill(0);
    }

    /// Whole sectors were written.
    pub(super) fn add(&mut self, tag: u32, offset: u32, bytes: u32) {
        let words = &mut self.words[tag as usize * self.words_of_tag..][..self.words_of_tag];
        let first = offset / SECTOR_BYTES;
        for sector in first..first + bytes / SECTOR_BYTES {
            let (word, bit) = ((sector / u64::BITS) as usize, 1 << (sector % u64::BITS));
            if words[word] & bit == 0 {
                words[word] |= bit;
                self.missing[tag as usize] -= 1;
            }
        }
    }

    pub(super) fn is_whole(&self, tag: u32) -> bool {
        self.missing[tag as usize] == 0
    }
}
