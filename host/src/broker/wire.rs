//! The messages between clients, broker and wardens: one JSON object each, in one packet of a seqpacket socket,
//! at most [`MESSAGE_BYTES_MAX`] long. Pure.
//!
//! Each has `"version": 1`. Fields that are unknown are ignored, so that optional ones can be added; what would be
//! misunderstood by who ignores it takes another version.
//!
//! A client sends the broker one [`Request`] for each connection, and gets one [`Reply`]. With
//! [`Reply::Capability`] comes the capability, a connected socket: on it, the first message for a new device is
//! [`Reply::Added`] with the open `/dev/ublkcN`, or why there is none; then each [`Command`] has one [`Reply`].

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::block::{Claims, Geometry};
use crate::config::{DeviceConfig, check_tags};
use crate::limits;
use crate::message::MESSAGE_BYTES_MAX;
use crate::ublk::DataPath;
use crate::ublk::abi::DevInfo;

/// The version of all messages.
pub const VERSION: u32 = 1;

/// What a client asks of the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// A new device, and its capability.
    Device(Wanted),
    /// A capability for the device whose open `/dev/ublkcN` comes along: whoever has that serves it.
    Attach,
    /// Devices that the client may see, by number; as many as fit into one message.
    List {
        /// From this number on.
        #[serde(default)]
        from: u32,
    },
    /// A device that the broker's own processes serve: the guest's file comes along, then its stores, open. Who asks is
    /// answered when the device can be used.
    Serve {
        /// What the device is to be.
        config: Box<DeviceConfig>,
    },
    /// A warden, whose broker has ended, puts itself under this one.
    Warden(Record),
}

/// The device that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its number; root alone may choose it.
    #[serde(default)]
    pub id: Option<u32>,
    /// A name to show in lists.
    #[serde(default)]
    pub name: Option<String>,
    /// The folder where `N.sock` is the control socket of the device N, for who may ask what is served.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight on each.
    pub depth: u16,
    /// What data must lie at multiples of in memory, in bytes: a power of two; 1 where it does not matter.
    pub align_bytes: u32,
    /// Size and shape.
    pub geometry: Claims,
    /// How data is to come and go. Zero copy is for users whom the policy trusts with the kernel's pages.
    #[serde(default = "copy")]
    pub data_path: DataPath,
    /// Whether nobody here has to see it, without which there is no zero copy.
    #[serde(default)]
    pub hidden: bool,
    /// Whether it stays when who serves it ends, until somebody takes it up by [`Command::Recover`] or closes its
    /// capability; no longer than the policy lets a device leave requests unanswered.
    #[serde(default)]
    pub recover: bool,
    /// Whether a process of the broker's asks for whoever it was started for, whom its broker knows.
    #[serde(default)]
    pub hosted: bool,
}

fn copy() -> DataPath {
    DataPath::Copy
}

/// What somebody who has a capability can do to its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// The processors that send requests to these queues.
    Affinity {
        /// Their numbers.
        queues: Vec<u16>,
    },
    /// Make the disk: all tags are being fetched.
    Start,
    /// Have who serves it end in order, requests wait from then on: he gets all tags back that have none. For devices
    /// that can be taken up.
    Quiesce,
    /// Take it up after who served it has ended: the reply has `/dev/ublkcN`, and [`Command::Start`] lets requests go
    /// on.
    Recover,
    /// Stop it unless its disk is open somewhere.
    TryStop,
    /// Stop it.
    Stop,
    /// What it is.
    Info,
    /// Change its size.
    Resize {
        /// The new one, a multiple of the logical block.
        size_bytes: u64,
    },
    /// Open its disk: the reply has `/dev/ublkbN`.
    Open {
        /// For reading only.
        read_only: bool,
        /// Only if nobody has it mounted or claimed, and until it is closed nobody can.
        #[serde(default)]
        exclusive: bool,
    },
    /// A further capability, for somebody who wants replies of his own.
    Copy,
    /// From here on it stays when the last capability is closed, as long as it is served.
    Detach,
    /// Delete it: nobody has its `/dev/ublkcN` open any more.
    Delete,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// Here is a capability.
    Capability,
    /// The device is there: what the kernel made of it.
    Added {
        /// The kernel's words.
        info: DevInfo,
    },
    /// A device that the broker serves can be used.
    Served {
        /// Its number.
        id: u32,
    },
    /// Processors, as numbers.
    Processors {
        /// Each.
        processors: Vec<usize>,
    },
    /// What the device is.
    Device {
        /// It.
        device: Record,
    },
    /// Devices.
    Devices {
        /// Each.
        devices: Vec<Record>,
    },
    /// It is not done.
    Refused {
        /// Why, for programs.
        reason: Reason,
        /// Why, for people.
        text: String,
    },
}

/// Why something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The request is wrong.
    Wrong,
    /// The policy does not allow it.
    Denied,
    /// The policy allows it, but not so much.
    Quota,
    /// Somebody uses it.
    Busy,
    /// It takes longer than its bound; it may still be done.
    TimedOut,
    /// The system refuses it.
    Failed,
}

/// What the broker knows of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, once it has one.
    pub id: Option<u32>,
    /// The client's name for it.
    pub name: Option<String>,
    /// Whose it is.
    pub uid: u32,
    /// His group.
    pub gid: u32,
    /// The process that asked for it.
    pub pid: i32,
    /// What it is doing.
    pub state: State,
    /// Its size.
    pub size_bytes: u64,
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight on each.
    pub depth: u16,
    /// What it counts for: queues x depth x longest transfer, and the guest's memory where the broker serves it.
    pub memory_bytes: u64,
    /// What the kernel keeps with it: the next device of its number has another.
    pub mark: u64,
    /// The folder of its control socket; where the broker does not serve it, as its client says.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    /// Whether the broker serves it.
    #[serde(default)]
    pub hosted: bool,
}

/// What a device is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being made.
    Starting,
    /// It has a disk.
    Live,
    /// Its warden is gone.
    Lost,
}

/// Why bytes are no message.
#[derive(Debug, Error)]
pub enum Malformed {
    /// Of another version.
    #[error("version {0} of the broker's messages; this is version {VERSION}")]
    Version(u32),
    /// No such message.
    #[error("not one of the broker's messages: {0}")]
    Syntax(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Sent<'a, T> {
    version: u32,
    #[serde(flatten)]
    message: &'a T,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// A message as bytes.
///
/// # Errors
///
/// None for the messages of this file.
pub fn encode(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let version = VERSION;
    serde_json::to_vec(&Sent { version, message })
}

/// A message of bytes that anybody may have sent.
///
/// # Errors
///
/// Where they are none.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let Versioned { version } = serde_json::from_slice(bytes)?;
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// Leaves as many records, from the first on, as fit into one [`Reply::Devices`].
pub fn fit(records: &mut Vec<Record>) {
    // What is around them is shorter than that.
    let mut room = MESSAGE_BYTES_MAX - 128;
    let fits = |record: &Record| {
        let bytes = serde_json::to_vec(record).map_or(MESSAGE_BYTES_MAX, |bytes| bytes.len() + 1);
        let left = room.checked_sub(bytes);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let count = records.iter().map(fits).take_while(|fits| *fits).count();
    records.truncate(count);
}

impl Wanted {
    /// Checks every number as if nobody had before.
    ///
    /// # Errors
    ///
    /// Names the first that is wrong.
    pub fn check(&self) -> Result<Geometry, String> {
        check_tags(self.queues, self.depth)?;
        if !self.align_bytes.is_power_of_two() || self.align_bytes > 4096 {
            return Err("align_bytes must be a power of two, at most 4096".into());
        }
        if self.id.is_some_and(|id| id > limits::ID_MAX) {
            return Err(format!("id must be at most {}", limits::ID_MAX));
        }
        let folder = self
            .run_dir
            .as_ref()
            .map(|path| path.as_os_str().as_encoded_bytes());
        if folder.is_some_and(|path| path.len() > 256 || path.iter().any(u8::is_ascii_control)) {
            return Err("run_dir must be at most 256 printable characters".into());
        }
        let printable = |name: &String| {
            name.len() <= limits::NAME_BYTES_MAX && name.chars().all(|c| c.is_ascii_graphic())
        };
        if !self.name.as_ref().is_none_or(printable) {
            let most = limits::NAME_BYTES_MAX;
            return Err(format!("name must be at most {most} printable characters"));
        }
        Geometry::new(&self.geometry).map_err(|why| why.to_string())
    }
}

impl Reply {
    /// Why something is not done.
    pub fn refused(reason: Reason, text: impl Into<String>) -> Reply {
        Reply::Refused {
            reason,
            text: text.into(),
        }
    }
}
