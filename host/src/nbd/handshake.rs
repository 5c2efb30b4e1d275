//! Option haggling: a state machine from bytes to bytes. Pure.

use super::decode::Fields;
use super::encode::{CONTEXT_ID, Framing};
use super::wire::{
    INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, export, handshake, info, option, reply,
};
use crate::block::Geometry;
use crate::limits;

/// The one metadata context: which ranges hold data.
const CONTEXT: &str = "base:allocation";

/// What the client is told of the export.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its name; clients may ask for the empty one as well.
    pub name: String,
    /// Its size and shape.
    pub geometry: Geometry,
    /// Whether clients may, or must, encrypt.
    pub tls: TlsMode,
    /// Zeros never take as long as if they were written: the guest has them in memory. What a file system or a disk
    /// makes of them, nobody knows before.
    pub fast_zero: bool,
}

/// Whether a connection is encrypted (`NBD_OPT_STARTTLS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    #[default]
    Off,
    /// Where the client wants it.
    Allowed,
    /// Without it, the client is told nothing.
    Required,
}

/// What was agreed on for one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// How replies look.
    pub framing: Framing,
    /// The client asked for `base:allocation`.
    pub block_status: bool,
}

/// Where the haggling is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ClientFlags,
    Options,
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The input ends before the message does.
    Incomplete,
    /// So many bytes were used; go on.
    Used(usize),
    /// So many bytes were used; requests follow.
    Transmit(usize, Session),
    /// So many bytes were used; after what was written, all that follows is encrypted.
    StartTls(usize),
    /// The client is to be left, after what was written.
    Close,
}

/// One connection's haggling.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    no_zeroes: bool,
    encrypted: bool,
    session: Session,
}

impl Handshake {
    /// Begins: appends the server's greeting.
    #[must_use]
    pub fn begin(output: &mut Vec<u8>) -> Handshake {
        output.extend_from_slice(&INIT_MAGIC.to_be_bytes());
        output.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        let flags = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        output.extend_from_slice(&flags.to_be_bytes());
        Handshake {
            state: State::ClientFlags,
            no_zeroes: false,
            encrypted: false,
            session: Session::default(),
        }
    }

    /// Takes one message off the input and appends the answer to it.
    pub fn step(&mut self, input: &[u8], offer: &Offer, output: &mut Vec<u8>) -> Step {
        match self.state {
            State::ClientFlags => self.client_flags(input),
            State::Options => self.option(input, offer, output),
        }
    }

    fn client_flags(&mut self, input: &[u8]) -> Step {
        if input.len() < 4 {
            return Step::Incomplete;
        }
        let flags = Fields(input).u32();
        let fixed = u32::from(handshake::FIXED_NEWSTYLE);
        let no_zeroes = u32::from(handshake::NO_ZEROES);
        if flags & fixed == 0 || flags & !(fixed | no_zeroes) != 0 {
            return Step::Close;
        }
        self.no_zeroes = flags & no_zeroes != 0;
        self.state = State::Options;
        Step::Used(4)
    }

    fn option(&mut self, input: &[u8], offer: &Offer, output: &mut Vec<u8>) -> Step {
        if input.len() < 16 {
            return Step::Incomplete;
        }
        let mut fields = Fields(input);
        let (magic, code, length) = (fields.u64(), fields.u32(), fields.u32());
        if magic != OPTION_MAGIC || length > limits::NBD_OPTION_BYTES_MAX {
            return Step::Close;
        }
        let Some(data) = input[16..].get(..length as usize) else {
            return Step::Incomplete;
        };
        let used = 16 + data.len();
        let mut answer = Answer {
            option: code,
            output,
        };
        let closed = offer.tls == TlsMode::Required && !self.encrypted;
        if closed && code == option::EXPORT_NAME {
            return Step::Close;
        }
        if closed && !matches!(code, option::STARTTLS | option::ABORT) {
            answer.refuse(reply::ERR_TLS_REQD, "this server wants TLS first");
            return Step::Used(used);
        }
        match code {
            option::EXPORT_NAME => {
                if !is_ours(data, offer) {
                    return Step::Close;
                }
                output.extend_from_slice(&offer.geometry.size_bytes.to_be_bytes());
                let flags = export_flags(offer, self.session);
                output.extend_from_slice(&flags.to_be_bytes());
                if !self.no_zeroes {
                    output.extend_from_slice(&[0; 124]);
                }
                return Step::Transmit(used, self.session);
            }
            option::GO | option::INFO => {
                if self.info(data, offer, &mut answer) && code == option::GO {
                    return Step::Transmit(used, self.session);
                }
            }
            option::ABORT => {
                answer.send(reply::ACK, &[]);
                return Step::Close;
            }
            option::STARTTLS if data.is_empty() => {
                if self.start_tls(offer, &mut answer) {
                    return Step::StartTls(used);
                }
            }
            _ => self.haggle(data, offer, &mut answer),
        }
        Step::Used(used)
    }

    /// The options that only change what is agreed on, or tell something.
    fn haggle(&mut self, data: &[u8], offer: &Offer, answer: &mut Answer<'_>) {
        match answer.option {
            option::LIST if data.is_empty() => {
                let name = offer.name.as_bytes();
                let length = u32::try_from(name.len()).unwrap_or(0);
                answer.send(reply::SERVER, &[&length.to_be_bytes()[..], name].concat());
                answer.send(reply::ACK, &[]);
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                if self.session.framing == Framing::Extended {
                    answer.refuse(reply::ERR_EXT_HEADER_REQD, "extended headers are agreed on");
                } else {
                    self.session.framing = Framing::Structured;
                    answer.send(reply::ACK, &[]);
                }
            }
            option::EXTENDED_HEADERS if data.is_empty() => {
                self.session.framing = Framing::Extended;
                answer.send(reply::ACK, &[]);
            }
            option::LIST
            | option::STARTTLS
            | option::STRUCTURED_REPLY
            | option::EXTENDED_HEADERS => {
                answer.refuse(reply::ERR_INVALID, "this option has no data");
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(data, offer, answer);
            }
            _ => answer.refuse(reply::ERR_UNSUP, "this server does not know this option"),
        }
    }

    /// STARTTLS. What was agreed on in the open is forgotten: anybody could have said it.
    fn start_tls(&mut self, offer: &Offer, answer: &mut Answer<'_>) -> bool {
        if offer.tls == TlsMode::Off {
            answer.refuse(reply::ERR_POLICY, "this server has no TLS");
        } else if self.encrypted {
            answer.refuse(reply::ERR_INVALID, "this is encrypted already");
        } else {
            answer.send(reply::ACK, &[]);
            self.encrypted = true;
            self.session = Session::default();
            return true;
        }
        false
    }

    /// INFO and GO: the export's numbers. Says whether there is such an export.
    fn info(&self, data: &[u8], offer: &Offer, answer: &mut Answer<'_>) -> bool {
        let Some((name, rest)) = split_string(data) else {
            answer.refuse(reply::ERR_INVALID, "the name is cut short");
            return false;
        };
        if rest.len() < 2 || rest.len() - 2 != 2 * usize::from(Fields(rest).u16()) {
            answer.refuse(
                reply::ERR_INVALID,
                "the list of wanted information is cut short",
            );
            return false;
        }
        if !is_ours(name, offer) {
            answer.refuse(reply::ERR_UNKNOWN, "there is no export of this name");
            return false;
        }
        let geometry = &offer.geometry;
        let mut export_info = [0; 12];
        export_info[..2].copy_from_slice(&info::EXPORT.to_be_bytes());
        export_info[2..10].copy_from_slice(&geometry.size_bytes.to_be_bytes());
        export_info[10..].copy_from_slice(&export_flags(offer, self.session).to_be_bytes());
        answer.send(reply::INFO, &export_info);
        let preferred = geometry.physical_block_bytes.max(4096);
        let mut sizes = [0; 14];
        sizes[..2].copy_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        sizes[2..6].copy_from_slice(&geometry.logical_block_bytes.to_be_bytes());
        sizes[6..10].copy_from_slice(&preferred.to_be_bytes());
        sizes[10..].copy_from_slice(&limits::NBD_PAYLOAD_BYTES_MAX.to_be_bytes());
        answer.send(reply::INFO, &sizes);
        answer.send(reply::ACK, &[]);
        true
    }

    /// LIST and SET of metadata contexts: there is one. Queries are `base:allocation`, or `base:` and
    /// nothing at all to list.
    fn meta_context(&mut self, data: &[u8], offer: &Offer, answer: &mut Answer<'_>) {
        let set = answer.option == option::SET_META_CONTEXT;
        if set {
            self.session.block_status = false;
        }
        if self.session.framing == Framing::Simple {
            return answer.refuse(reply::ERR_INVALID, "structured replies come first");
        }
        let Some((name, queries)) = split_string(data) else {
            return answer.refuse(reply::ERR_INVALID, "the name is cut short");
        };
        let Some(queries) = split_queries(queries) else {
            return answer.refuse(reply::ERR_INVALID, "the list of queries is cut short");
        };
        if !is_ours(name, offer) {
            return answer.refuse(reply::ERR_UNKNOWN, "there is no export of this name");
        }
        let asks = |query: &&[u8]| *query == CONTEXT.as_bytes() || (!set && *query == b"base:");
        if queries.iter().any(|query| asks(&query.as_slice())) || (!set && queries.is_empty()) {
            let id = if set { CONTEXT_ID } else { 0 };
            let context = [&id.to_be_bytes()[..], CONTEXT.as_bytes()].concat();
            answer.send(reply::META_CONTEXT, &context);
            self.session.block_status |= set;
        }
        answer.send(reply::ACK, &[]);
    }
}

/// The replies to one option.
struct Answer<'a> {
    option: u32,
    output: &'a mut Vec<u8>,
}

impl Answer<'_> {
    fn send(&mut self, kind: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap_or(0);
        self.output
            .extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        self.output.extend_from_slice(&self.option.to_be_bytes());
        self.output.extend_from_slice(&kind.to_be_bytes());
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(data);
    }

    fn refuse(&mut self, kind: u32, why: &str) {
        self.send(kind, why.as_bytes());
    }
}

/// A string behind its length, and what follows.
fn split_string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// The queries of a metadata option: a number of them, each a string.
fn split_queries(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (count, mut rest) = data.split_first_chunk::<4>()?;
    let mut queries = Vec::new();
    // Each takes four bytes at least, so the length of the option bounds this.
    for _ in 0..u32::from_be_bytes(*count) {
        let (query, after) = split_string(rest)?;
        queries.push(query.to_vec());
        rest = after;
    }
    rest.is_empty().then_some(queries)
}

fn is_ours(name: &[u8], offer: &Offer) -> bool {
    name.is_empty() || name == offer.name.as_bytes()
}

/// What the export can do. Several connections are one client to the one instance behind them.
#[must_use]
pub fn export_flags(offer: &Offer, session: Session) -> u16 {
    let geometry = &offer.geometry;
    let mut flags =
        export::HAS_FLAGS | export::SEND_FLUSH | export::CAN_MULTI_CONN | export::SEND_CACHE;
    let discards = geometry.trim.is_some_and(|trim| trim.max_discard_bytes > 0);
    for (set, bits) in [
        (session.framing != Framing::Simple, export::SEND_DF),
        (geometry.read_only, export::READ_ONLY),
        (geometry.rotational, export::ROTATIONAL),
        (
            !geometry.read_only,
            export::SEND_FUA | export::SEND_WRITE_ZEROES,
        ),
        (
            !geometry.read_only && offer.fast_zero,
            export::SEND_FAST_ZERO,
        ),
        (!geometry.read_only && discards, export::SEND_TRIM),
    ] {
        if set {
            flags |= bits;
        }
    }
    flags
}
