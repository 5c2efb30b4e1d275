//! What a `ring` guest asks for, held against what it has: whatever it asks, the account stays right.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use wasmblk::block::{Claims, Errno, Geometry, Memory, Op, Output, Request, Transfer, Work};
use wasmblk::guest::account::Account;
use wasmblk::guest::records::Record;
use wasmblk::guest::{Breach, Terms};
use wasmblk::store::Shape;

const DEPTH: u32 = 4;
const OPS_MAX: u32 = 6;
const ARENA_BYTES: u64 = 1 << 16;
const STORE_BYTES: u64 = 1 << 20;

fn account(hidden: bool) -> Account {
    let shape = |align_bytes, read_only| Shape {
        range_align_bytes: align_bytes,
        size_bytes: STORE_BYTES,
        block_bytes: 512,
        align_bytes,
        read_only,
    };
    Account::new(Terms {
        depth: DEPTH,
        ops_max: OPS_MAX,
        arena_bytes: ARENA_BYTES,
        hidden_bytes_max: hidden.then_some(1 << 16),
        stores: [shape(1, false), shape(512, true)].into(),
        deadline: Duration::from_secs(30),
        ticks: Arc::default(),
    })
}

fn geometry() -> Geometry {
    let claims = Claims {
        size_bytes: 1 << 30,
        ..Claims::default()
    };
    Geometry::new(&claims).expect("a geometry")
}

/// What happens to an account.
#[derive(Clone, Debug)]
enum Step {
    Request(u32, Op, u32),
    Act(Record),
    /// A transfer under way ends, by its place among them: all of it, a part, nothing, or an error.
    End(usize, u32, bool),
    Events,
}

/// Numbers that are right, nearly right, or anything.
fn number(from: &mut Unstructured<'_>, near: u32) -> Result<u32> {
    match from.int_in_range(0..=5)? {
        0 => Ok(u32::MAX),
        1 => from.arbitrary(),
        _ => from.int_in_range(0..=near + 1),
    }
}

fn size(from: &mut Unstructured<'_>) -> Result<u32> {
    match from.int_in_range(0..=4)? {
        0 => number(from, 1 << 16),
        _ => Ok(from.int_in_range(0..=8)? * 512),
    }
}

/// Actions of which many are right.
fn record(from: &mut Unstructured<'_>) -> Result<Record> {
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let head = pair(number(from, 18)?, number(from, OPS_MAX)?);
    let offset = match from.int_in_range(0..=5)? {
        0 => from.arbitrary()?,
        1 => from.int_in_range(STORE_BYTES - 2..=STORE_BYTES + 1)?,
        _ => from.int_in_range(0_u64..=199)? * 512,
    };
    let how = number(from, 3)? | from.int_in_range(0..=7)? << 16;
    let length = pair(size(from)?, how);
    let at = size(from)?;
    let tag = if from.arbitrary()? {
        u32::MAX
    } else {
        number(from, DEPTH)?
    };
    Ok([head, offset, length, pair(at, tag)].map(u64::to_le))
}

fn step(from: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match from.int_in_range(0..=13)? {
        0 => Step::Act(from.arbitrary()?),
        1..=2 => {
            let op = *from.choose(&[Op::Read, Op::Write, Op::Flush])?;
            let length = from.int_in_range(1..=8)? * 512;
            Step::Request(from.int_in_range(0..=DEPTH - 1)?, op, length)
        }
        3..=5 => Step::End(from.int_in_range(0..=15)?, size(from)?, from.arbitrary()?),
        6..=7 => Step::Events,
        _ => Step::Act(record(from)?),
    })
}

/// The same in a few words: what is in hand, and what was written of a read's data.
#[derive(Default)]
struct Model {
    held: [Option<(Op, u32)>; DEPTH as usize],
    filled: [Vec<bool>; DEPTH as usize],
    /// Transfers under way: what was asked for first, and what is left.
    under_way: Vec<(u32, Transfer, Transfer)>,
}

impl Model {
    /// A transfer that answers is the only one of its request, and of all its data.
    fn check_alone(&self, token: u32, transfer: &Transfer) {
        let Memory::Request(tag, at) = transfer.memory else {
            assert!(token < OPS_MAX, "it answers nothing");
            return;
        };
        let moves = |left: &Transfer| matches!(left.memory, Memory::Request(of, _) if of == tag);
        for (other, _, left) in &self.under_way {
            let alone = *other < OPS_MAX && token < OPS_MAX;
            assert!(alone || !moves(left), "{transfer:?} beside {left:?}");
        }
        if token >= OPS_MAX {
            assert_eq!(token - OPS_MAX, tag);
            let (_, length) = self.held[tag as usize].expect("a request");
            assert_eq!((at, transfer.length), (0, length), "all of it");
        }
    }

    fn check_begun(&self, transfer: &Transfer) {
        let inside = |at: u64| assert!(at + u64::from(transfer.length) <= ARENA_BYTES);
        match transfer.memory {
            Memory::Arena(at) => inside(at.into()),
            Memory::Request(tag, at) => {
                let (op, length) = self.held[tag as usize].expect("a request in hand");
                assert!(at + transfer.length <= length, "{transfer:?}");
                let fills = matches!(transfer.work, Work::Read | Work::Fill | Work::CopyIn);
                assert_eq!(fills, op == Op::Read, "{transfer:?}");
            }
            Memory::Zeros | Memory::Nowhere => {}
        }
        match transfer.work {
            Work::CopyIn | Work::CopyOut => inside(transfer.offset),
            Work::Fill | Work::Flush => {}
            _ => assert!(transfer.offset + u64::from(transfer.length) <= STORE_BYTES),
        }
        let changes = !matches!(
            transfer.work,
            Work::Read | Work::Flush | Work::Fill | Work::CopyIn | Work::CopyOut
        );
        assert!(transfer.store == 0 || !changes, "store 1 is read-only");
    }

    fn answered(&mut self, tag: u32, result: Result<u32, Errno>) {
        let place = tag as usize;
        let (op, length) = self.held[place].take().expect("it was in hand");
        for (_, _, left) in &self.under_way {
            let moves = matches!(left.memory, Memory::Request(of, _) if of == tag);
            assert!(!moves, "what is answered does not move");
        }
        if let (Op::Read, Ok(bytes)) = (op, result) {
            assert_eq!(bytes, length);
            let whole = self.filled[place].is_empty() || self.filled[place].iter().all(|is| *is);
            assert!(whole, "a read is done when all of it is there");
        }
    }

    /// A transfer under way ends, by its place among them: with so many bytes, or an error.
    fn end(
        &mut self,
        account: &mut Account,
        output: &mut Output,
        (which, bytes, good): (usize, u32, bool),
        closed: bool,
    ) {
        let which = which % self.under_way.len();
        let (token, first, left) = self.under_way.remove(which);
        let bytes = bytes.min(left.length);
        let result = if good { Ok(bytes) } else { Err(Errno::EIO) };
        account.ended(token, result, output);
        let rest = output.transfers.iter().position(|(of, _)| *of == token);
        let goes_on = rest.is_some();
        if let Some(place) = rest {
            let (_, rest) = output.transfers.remove(place);
            self.check_begun(&rest);
            self.under_way.push((token, first, rest));
        } else if good && bytes == left.length && (!closed || token >= OPS_MAX) {
            self.filled(&first);
        }
        let answers = (output.answers.iter()).any(|answer| answer.slot + OPS_MAX == token);
        assert_eq!(
            answers,
            token >= OPS_MAX && !goes_on,
            "its end is the answer"
        );
    }

    /// All of a transfer is done.
    fn filled(&mut self, first: &Transfer) {
        if let Memory::Request(tag, at) = first.memory
            && !self.filled[tag as usize].is_empty()
        {
            let sectors = at as usize / 512..(at + first.length) as usize / 512;
            self.filled[tag as usize][sectors].fill(true);
        }
    }
}

/// Goes through all steps. After a breach, which is the end of a guest, only transfers end.
fn run(hidden: bool, steps: &[Step]) {
    let mut account = account(hidden);
    let geometry = geometry();
    let (mut model, mut output) = (Model::default(), Output::default());
    let mut breach: Option<Breach> = None;
    for step in steps {
        match step {
            Step::Request(tag, op, length) => {
                let place = *tag as usize;
                if breach.is_some() || model.held[place].is_some() {
                    continue;
                }
                let length = if *op == Op::Flush { 0 } else { *length };
                model.held[place] = Some((*op, length));
                let sectors = if hidden && *op == Op::Read {
                    length / 512
                } else {
                    0
                };
                model.filled[place] = vec![false; sectors as usize];
                let request = Request {
                    op: *op,
                    offset: 0,
                    length,
                    fua: false,
                    may_discard: false,
                };
                account.begin(*tag, &request.check(&geometry).expect("it fits"));
            }
            Step::Act(record) if breach.is_none() => {
                breach = account.act(record, &mut output).err();
                if breach.is_some() {
                    account.close();
                }
            }
            Step::End(which, bytes, good) if !model.under_way.is_empty() => {
                let closed = breach.is_some();
                model.end(&mut account, &mut output, (*which, *bytes, *good), closed);
            }
            Step::Events if breach.is_none() => account.take_events(|_| {}),
            _ => {}
        }
        for (token, transfer) in output.transfers.drain(..) {
            model.check_begun(&transfer);
            model.check_alone(token, &transfer);
            assert!(
                model.under_way.iter().all(|(other, ..)| *other != token),
                "a token is one"
            );
            model.under_way.push((token, transfer, transfer));
        }
        for answer in output.answers.drain(..) {
            model.answered(answer.slot, answer.result);
        }
        assert_eq!(account.under_way() as usize, model.under_way.len());
    }
}

/// Steps as long as there are bytes.
pub(crate) fn target(bytes: &[u8]) {
    let mut from = Unstructured::new(bytes);
    let hidden = from.arbitrary().unwrap_or(true);
    let mut steps = Vec::new();
    while !from.is_empty() && steps.len() < 200 {
        match step(&mut from) {
            Ok(step) => steps.push(step),
            Err(_) => break,
        }
    }
    run(hidden, &steps);
}
