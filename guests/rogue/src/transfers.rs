//! Reads by transfers, and lies about them.

use super::{NO_TAG, OPS_MAX, PAGE_BYTES, RECORD_BYTES, State, TRANSFER_BYTES};

/// Kinds of transfers.
const READ: u32 = 1;
const WRITE: u32 = 2;
const FLUSH: u32 = 3;
const FILL: u32 = 6;
const COPY_OUT: u32 = 7;
const COPY_IN: u32 = 8;

impl State {
    /// A transfer of `length` bytes: from or to `offset` of store 0, with memory at `place`, in the data of a
    /// request where there is a tag. The token is a tag's own, so that its end completes the request.
    fn transfer(&mut self, kind: u32, token: u32, offset: u64, memory: (u32, u32, u32)) {
        let (length, place, tag) = memory;
        let at = self.actions + self.actions_count * RECORD_BYTES;
        self.act(kind, token, offset, length);
        let store = if self.lie == "store-number" { 9 } else { 0 };
        let record = &mut self.memory[at..][..RECORD_BYTES];
        record[20..24].copy_from_slice(&u32::to_le_bytes(store));
        record[24..28].copy_from_slice(&place.to_le_bytes());
        record[28..32].copy_from_slice(&tag.to_le_bytes());
    }

    /// The same of a read, as the answer to a request.
    fn answer(&mut self, offset: u64, memory: (u32, u32, u32)) {
        let at = self.actions + self.actions_count * RECORD_BYTES;
        self.transfer(READ, u32::MAX, offset, memory);
        self.memory[at + 22] = 4;
    }

    /// The answer to a read by a transfer, and lies about that.
    pub(super) fn answer_by_transfer(&mut self, tag: u32, length: u32) {
        match self.lie.clone().as_str() {
            "answer-half" => self.answer(0, (length / 2, 0, tag)),
            "answer-end" => self.answer(0, (length / 2, length / 2, tag)),
            "answer-beyond" => self.answer(0, (length, 512, tag)),
            "answer-arena" => self.answer(0, (length, 0, NO_TAG)),
            "answer-another" => self.answer(0, (length, 0, tag ^ 1)),
            "answer-store-end" => self.answer(64 << 20, (length, 0, tag)),
            "answer-twice" => {
                self.answer(0, (length, 0, tag));
                self.answer(0, (length, 0, tag));
            }
            "answer-complete" => {
                self.answer(0, (length, 0, tag));
                self.complete(tag);
            }
            "answer-fill" => {
                self.answer(0, (length, 0, tag));
                self.transfer(FILL, 0, 0, (length, 0, tag));
            }
            "answer-under-way" => {
                self.transfer(FILL, 0, 0, (length, 0, tag));
                self.answer(0, (length, 0, tag));
            }
            "answer-trap" => {
                self.answer(0, (length, 0, tag));
                self.kept.push(tag);
                if self.kept.len() == 2 {
                    panic!("told to trap");
                }
            }
            _ => self.answer(0, (length, 0, tag)),
        }
    }

    /// A read by transfers, and lies about them. The token is the tag, in the depths that tests use.
    pub(super) fn read_by_transfers(&mut self, tag: u32, length: u32) {
        let slot = (self.slots - self.begin) as u32 + tag * (TRANSFER_BYTES + PAGE_BYTES) as u32;
        let arena = self.arena_bytes as u32;
        let token = tag % OPS_MAX as u32;
        self.tags[token as usize] = tag;
        let half = length / 2;
        let lie = self.lie.clone();
        let mut read =
            |offset, length, place, of| self.transfer(READ, token, offset, (length, place, of));
        match lie.as_str() {
            "store-number" | "store" => read(0, length, slot, NO_TAG),
            "store-beyond" => read(u64::MAX, length, slot, NO_TAG),
            "store-end" => read(64 << 20, length, slot, NO_TAG),
            "store-empty" => read(0, 0, slot, NO_TAG),
            "arena-beyond" => read(0, length, arena, NO_TAG),
            "arena-end" => read(0, length, arena - 256, NO_TAG),
            "arena-max" => read(0, length, u32::MAX, NO_TAG),
            "length-max" => read(0, u32::MAX, slot, NO_TAG),
            "own-slots" => read(0, length, 0, tag),
            "over-records" => read(0, 4096, 0, NO_TAG),
            "transfer-twice" => {
                read(0, length, slot, NO_TAG);
                read(0, length, slot, NO_TAG);
            }
            "trap-under-way" => {
                read(0, length, slot, NO_TAG);
                if self.kept.len() == 2 {
                    panic!("told to trap");
                }
                self.kept.push(tag);
            }
            "store-write" => self.transfer(WRITE, token, 0, (length, slot, NO_TAG)),
            "store-flush" => self.transfer(FLUSH, token, u64::MAX, (0, 0, 0)),
            "not-filled" => self.complete(tag),
            "half-filled" => self.transfer(FILL, token, 0, (half, 0, tag)),
            "same-half-twice" => {
                self.transfer(FILL, token, 0, (half, 0, tag));
                self.transfer(FILL, (token + 1) % OPS_MAX as u32, 0, (half, 0, tag));
                self.tags[(token as usize + 1) % OPS_MAX] = tag;
            }
            "odd-fill" => self.transfer(FILL, token, 0, (length - 8, 8, tag)),
            "fill-beyond" => self.transfer(FILL, token, 0, (length, 512, tag)),
            "fill-max" => self.transfer(FILL, token, 0, (length, u32::MAX - 511, tag)),
            "fill-of-nothing" => self.transfer(FILL, token, 0, (length, 0, NO_TAG)),
            "fill-another" => self.transfer(FILL, token, 0, (length, 0, tag ^ 1)),
            "read-the-data" => self.transfer(COPY_OUT, token, 0, (length, 0, tag)),
            "write-the-data" => self.transfer(WRITE, token, 0, (length, 0, tag)),
            "copy-beyond" => self.transfer(COPY_IN, token, u64::from(arena), (length, 0, tag)),
            "copy-max" => self.transfer(COPY_IN, token, u64::MAX, (length, 0, tag)),
            "done-while-filling" => {
                read(0, length, 0, tag);
                self.complete(tag);
            }
            _ => self.transfer(FILL, token, 0, (length, 0, tag)),
        }
    }
}
