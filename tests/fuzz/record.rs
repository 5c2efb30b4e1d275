//! Whatever a `ring` guest writes, it is an action or it is not: nothing else happens.

use wasmblk::guest::records::{Action, NoAction, Record, action};

pub(crate) fn target(bytes: &[u8]) {
    for record in bytes.chunks_exact(32) {
        check(record);
    }
}

fn check(bytes: &[u8]) {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let record: Record = [0, 8, 16, 24].map(|at| long(at).to_le());
    let (kind, number) = (word(0), word(4));
    match action(&record) {
        Ok(Action::Complete { tag, .. }) => assert_eq!((kind, tag), (0, number)),
        Ok(Action::Timer { token, after_ms }) => {
            assert_eq!((kind, token, after_ms), (16, number, long(8)));
        }
        Ok(Action::Transfer { token, transfer }) => {
            assert!((1..=8).contains(&kind) && token == number);
            assert_eq!(transfer.length, word(16));
        }
        Ok(Action::Answer(transfer)) => {
            assert!((1..=2).contains(&kind) && bytes[22] & 4 == 4);
            assert_eq!((transfer.length, transfer.offset), (word(16), long(8)));
        }
        Err(NoAction::Kind(no)) => assert!(no == kind && kind > 8 && kind != 16),
        Err(NoAction::Status(no)) => assert!(no == word(16) && kind == 0 && no > 8),
    }
}
