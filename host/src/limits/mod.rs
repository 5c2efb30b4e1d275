//! Every limit and default of the host, with its reason. Times are durations, sizes are in bytes.

mod nbd;

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

pub use self::nbd::*;

/// Longest read or write where the guest names none. The kernel's own default for ublk; beyond it
/// the cost per request no longer matters.
pub const TRANSFER_BYTES_DEFAULT: u32 = 512 << 10;

/// Longest read or write that a guest may ask for. Each tag has a slot of this size, so a queue of the
/// default depth can take 128 MiB of the host's memory, or, by the contract `ring`, of the guest's.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// The least that `--transfer-kib` may be: a page, which every client may send.
pub const TRANSFER_BYTES_MIN: u32 = 4096;

/// Requests in flight on one queue unless `--depth` says otherwise: what ublksrv's tools use, and as
/// deep as an ordinary client goes.
pub const DEPTH_DEFAULT: u16 = 128;

/// The kernel's own limit (`UBLK_MAX_QUEUE_DEPTH` in `ublk_cmd.h`).
pub const DEPTH_MAX: u16 = 4096;

/// The kernel's own limit is 4096, but it gives no more queues than there are processors.
pub const QUEUES_MAX: u16 = 256;

/// Device numbers end here (`UBLK_MAX_UBLKS`, 20 bits).
pub const ID_MAX: u32 = (1 << 20) - 1;

/// All tags of one worker: its ring holds one command for each, and rings have at most 32768 entries.
pub const TAGS_MAX: u32 = 32768;

/// Calls of the contract `device` whose answers are held back to send them in one system call: enough for
/// that to cost nothing, and a slow guest delays few of them.
pub const ANSWERS_HELD_MAX: u32 = 16;

/// A guest's file. The largest ordinary guest, a Python interpreter inside, has 18 MB.
pub const GUEST_FILE_BYTES_MAX: u64 = 64 << 20;

/// Memory of one guest (all its instances, with what the host keeps for them) unless `--memory-mib` says otherwise:
/// enough for a RAM disk to try things with, and for a slot of the longest transfer for each of 128 tags; a small
/// part of an ordinary machine. One bulk memory instruction over all of it, which no deadline interrupts, takes 0.6 s
/// where the pages are fresh, and 0.05 s after that; a string as long as that, which one component inside the guest
/// gives another one in UTF-16 and that one takes in UTF-8, 0.7 s and 0.4 s.
pub const GUEST_MEMORY_BYTES_DEFAULT: u64 = 1 << 30;

/// The most that `--memory-mib` may be: a bulk instruction over all of it cannot be interrupted.
pub const GUEST_MEMORY_BYTES_MAX: u64 = 64 << 30;

/// Computing time of the compiler unless `--compile-seconds` says otherwise: a guest of 18 MB, the size of a Python
/// interpreter, takes 18 s by a compiler that is hardly optimised.
pub const COMPILE_TIME_DEFAULT: Duration = Duration::from_secs(120);

/// Memory of the compiler unless `--compile-mib` says otherwise: that guest takes 340 MiB, and a single function of
/// 1 MB 450 MiB.
pub const COMPILE_BYTES_DEFAULT: u64 = 2 << 30;

/// How much longer than its computing time the compiler may take by the clock: it may have to wait for a processor.
pub const COMPILE_WAIT_TIME: Duration = Duration::from_secs(60);

/// Machine code of one guest: some times its file.
pub const COMPILED_BYTES_MAX: u64 = 8 * GUEST_FILE_BYTES_MAX;

/// Core instances and tables inside one instance of a guest, and memories. Toolchains make up to a dozen
/// of the former and one of the latter.
pub const GUEST_PARTS_MAX: usize = 32;
/// See [`GUEST_PARTS_MAX`].
pub const GUEST_MEMORIES_MAX: usize = 8;

/// A policy file: as many stores as there may be, with long paths.
pub const POLICY_BYTES_MAX: u64 = 512 << 10;

/// Imports and exports of a guest that is inspected, and components inside components. Toolchains make a few
/// dozen of the former and one of the latter.
pub const GUEST_NAMES_MAX: usize = 1024;
/// See [`GUEST_NAMES_MAX`].
pub const GUEST_DEPTH_MAX: i32 = 32;

/// Handles (streams, pollables) that a guest may hold. Toolchains use a handful.
pub const GUEST_RESOURCES_MAX: usize = 256;

/// What each of them may take in the host: what they stand for, and the host's tables. A guest that imports WASI has
/// that for all of them from its memory, from the beginning.
pub const GUEST_RESOURCE_BYTES: usize = 1024;

/// What a directory takes while it is read, beside that: the library reads ahead. It comes from the guest's memory.
pub const GUEST_LISTING_BYTES: usize = 48 << 10;

/// What a connection takes beside that: what was written and is not sent yet, at most a piece of
/// [`GUEST_STREAM_BYTES_MAX`], and what waits for it. It comes from the guest's memory. What the kernel keeps for
/// a connection does not.
pub const GUEST_CONNECTION_BYTES: usize = GUEST_STREAM_BYTES_MAX + (4 << 10);

/// Strings and lists that wasmtime copies for the host in one call of the guest: paths and names. What is longer, data
/// and messages, is looked at where it lies (`sys/passed.rs`).
pub const GUEST_PASSED_BYTES_MAX: usize = 16 << 10;

/// What passes between a guest and the host in one call takes no more than this of the host's memory: a string of
/// [`GUEST_PASSED_BYTES_MAX`] in UTF-16, which is 4.5 times as long while it becomes UTF-8 (72 KiB), or a piece of
/// [`GUEST_STREAM_BYTES_MAX`] or [`GUEST_RANDOM_BYTES_MAX`]. There is one call at a time in each instance, and each
/// has this from the guest's memory, from the beginning. Of the contract `device` it is [`TRANSFER_BYTES_MAX`] more,
/// for what a `read` gives, or a store, and as much for each instance of a `ring` guest until its `open` returns,
/// where it imports stores; twice that where one is `direct`. So nothing that is passed is beyond the limit; what the
/// allocator needs for that may be.
pub const GUEST_CALL_BYTES: usize = 128 << 10;

/// Stack of a call, which is that of the thread: wasmtime's own default. It counts as the memory of each instance.
pub const GUEST_STACK_BYTES: usize = 512 << 10;

/// What wasmtime keeps of a handle in the table of one component instance, of [`GUEST_RESOURCES_MAX`].
pub const GUEST_HANDLE_BYTES: usize = 32;

/// Files that a data plane has open beside those of its instances: stores, rings, memory, and whom it talks to.
pub const PLANE_FILES_MAX: u64 = 256;

/// Bytes that one table element takes in the host, for counting tables as memory.
pub const TABLE_ELEMENT_BYTES: usize = 16;

/// How long one call into a guest may run unless `--deadline` says otherwise: longer than a slow guest
/// on a busy machine needs. A request may wait for the calls of all that came before it.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

/// Computing time of the threads of all instances of a guest together, in percent of one processor, unless
/// `--cpu-percent` says otherwise: all of it, which is no limit.
pub const CPU_PERCENT_DEFAULT: u32 = 100;

/// How often the computing time of calls is looked at where it is limited: what a guest may take too much before
/// it waits. What that costs is in `host/DESIGN.md`.
pub const CPU_TICK: Duration = Duration::from_millis(5);

/// Computing time that a guest may save up: a few requests at full speed after it had nothing to do.
pub const CPU_CREDIT_MAX: Duration = Duration::from_millis(50);

/// Longest wait at a time of a guest that has used too much: signals and stops wait for it. With a tick between
/// two, less than the least budget is used.
pub const CPU_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Actions of one `poll` of the contract `ring`: more than a queue of the greatest depth needs; the host
/// looks at all of them before it does anything else.
pub const RING_ACTIONS_MAX: u32 = 65536;

/// Operations that a guest of the contract `ring` may have under way: the same.
pub const RING_OPS_MAX: u32 = 65536;

/// What the host and the kernel's ring keep of each of them, whether it is under way or not; it counts as the guest's
/// memory.
pub const RING_OP_BYTES: usize = 256;

/// The longest timer of a guest; longer ones are due after this.
pub const RING_TIMER_MAX: Duration = Duration::from_secs(24 * 3600);

/// While something of a `ring` guest is with a store, its requests may take so many deadlines.
pub const RING_STORE_PERIODS_MAX: u32 = 4;

/// Instances that may be at fault one soon after the other before a `restartable` guest has failed for good:
/// what one unlucky moment causes is over by then.
pub const RESTARTS_MAX: u32 = 5;

/// How long nothing may happen for faults not to be one soon after the other.
pub const RESTART_CALM_TIME: Duration = Duration::from_secs(60);

/// How long to wait before the second restart; twice as long before each that follows. The first is at once.
pub const RESTART_DELAY: Duration = Duration::from_millis(50);

/// Bytes of transfers that are begun before requests and signals have their turn: what memory moves in some
/// milliseconds.
pub const TURN_BYTES_MAX: u64 = 64 << 20;

/// How long a worker waits at most while requests are under way: that long it may take to see that the device
/// has failed, or that a request is overdue.
pub const BUSY_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a store may be in use by somebody else before that is an error: who ends, or has just started a
/// process, has it for a moment.
pub const STORE_LOCK_TIME: Duration = Duration::from_millis(300);

/// Threads that wait for stores where there is no ring: a disk has something to do, and they are few.
pub const STORE_THREADS: usize = 8;

/// A transfer that takes so long is left to a thread where more wait behind it: handing it over costs 5 to 10 us.
pub const STORE_SHARED_TIME: Duration = Duration::from_micros(15);

/// A transfer between memory and the system's cache that took longer than this has waited: 128 KiB are copied in 20
/// to 50 us.
pub const STORE_WAIT_TIME: Duration = Duration::from_micros(500);

/// After a transfer that waited, so many are left to the threads: clients wait for the one thread that serves them
/// as long as one transfer in a thousand takes.
pub const STORE_WAITS_LEFT_OUT: u32 = 1000;

/// What `import` and `export` read at a time, and all the memory that they take: as long as the longest request of a
/// guest.
pub const IMAGE_BUFFER_BYTES: usize = 1 << 20;

/// Stores of one device: as many as a wide stripe has legs.
pub const STORES_MAX: usize = 64;

/// Grants that a guest looks for in vain of which an error speaks: more are no help.
pub const MISSING_MAX: usize = 4;

/// How often the calls of a busy guest are looked at: a call is ended at most so much before its deadline, which is
/// no more than 2 % of the shortest one.
pub const CLOCK_TICK: Duration = Duration::from_millis(20);

/// How often those of idle guests are: of many devices on a machine, most are idle.
pub const CLOCK_IDLE_TICK: Duration = Duration::from_millis(100);

/// How long a guest must have been called by nobody to be idle.
pub const CLOCK_IDLE_TIME: Duration = Duration::from_secs(2);

/// Longest message of a guest in the log.
pub const GUEST_LOG_LINE_BYTES_MAX: usize = 1024;

/// Longest error message, guests' words in it included: more than a screen is no help.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Longest piece of a guest's words inside a message of ours.
pub const GUEST_WORDS_BYTES_MAX: usize = 512;

/// Functions of a guest's stack in the log. Their names are the guest's choice, and copied as they are.
pub const STACK_FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// Requests in a fault's report: the one that did it is the only one of a guest that is sent one at a time, and
/// more than a line is no help.
pub const LAST_REQUESTS_MAX: usize = 8;

/// Messages of a guest in the log each second, from all its instances, unless `--log-lines` says otherwise; the
/// rest are counted. At this rate it takes minutes to fill a log.
pub const GUEST_LOG_LINES_DEFAULT: u32 = 20;

/// The most that `--log-lines` may be: what somebody who looks for a mistake may want for a moment.
pub const GUEST_LOG_LINES_MAX: u32 = 10_000;

/// Directories, and hosts with ports, that a guest may be granted; addresses that each host is taken to have, and bytes
/// of its name (RFC 1035). All are more than is usual.
pub const DIRECTORIES_MAX: usize = 16;
/// See [`DIRECTORIES_MAX`].
pub const REMOTES_MAX: usize = 16;
/// See [`DIRECTORIES_MAX`].
pub const ADDRESSES_MAX: usize = 32;
/// See [`DIRECTORIES_MAX`].
pub const HOST_BYTES_MAX: usize = 253;

/// What a guest reads or writes of a file at a time, in bytes: it is copied by the host, which has that much for each.
pub const GUEST_STREAM_BYTES_MAX: usize = 64 << 10;

/// Random bytes that a guest may ask for at a time; they are made one by one.
pub const GUEST_RANDOM_BYTES_MAX: u64 = 64 << 10;

/// A device's log file; when it is full, it becomes the old one, and the one before goes.
pub const LOG_FILE_BYTES_MAX: u64 = 4 << 20;

/// The longest that `--deadline` may be: half of the 120 s after which the kernel calls a task hung.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// How long one control command of the driver may take. They take milliseconds; what takes longer
/// hangs in the kernel, on some versions for ever.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(20);

/// The same for START and STOP, which wait for requests in the guest's hands: one that overruns its
/// deadline fits, the others are then answered at once.
pub const SLOW_CONTROL_TIMEOUT: Duration = Duration::from_secs(90);

/// How long the kernel may take to leave out a new disk's scheduler before that goes on beside: it waits for requests
/// that are under way already.
pub const SCHEDULER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the service manager may take to read that a process is ready.
pub const MANAGER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the kernel may be busy with the end of a data plane before the device can be taken up.
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Data planes of one device that may end one soon after the other before nobody takes it up any more.
pub const RECOVERIES_MAX: u32 = 5;

/// How long to wait before the second of them is replaced; twice as long before each that follows.
pub const RECOVERY_DELAY: Duration = Duration::from_millis(100);

/// How often STOP is waited for while the guest makes progress; then its requests are answered with EIO.
pub const STOP_TRIES_MAX: u32 = 4;

/// How long it may take until the nodes of a new device are its owner's: udev takes milliseconds, and longer where many
/// devices come at once.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest call into the guest of an unprivileged device, whose server the kernel ends with SIGKILL when a request
/// takes 30 s.
pub const UNPRIVILEGED_DEADLINE: Duration = Duration::from_secs(5);

/// When a request of an unprivileged device has waited so long, all are answered with EIO: the call that runs and the
/// next look, [`UNPRIVILEGED_DEADLINE`] and [`BUSY_WAIT_MAX`], are over before the 30 s.
pub const UNPRIVILEGED_WAIT_MAX: Duration = Duration::from_secs(15);

/// How long `add` waits for its data plane: opening an instance, START and STOP fit, with their bounds.
pub const START_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the workers of a stopped device may take to end: the last flush of a guest, with its
/// deadline, fits.
pub const WORKERS_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a guest may take for its last flush: a call with the longest deadline fits.
pub const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(65);

/// How long `del` waits for a data plane to answer what it has in hand, flush, delete and end.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(120);

/// How long `del` waits for a device that is being started until it can be told to stop: START takes milliseconds, and
/// longer where the machine has other work.
pub const STARTING_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an id may stay taken after its device is gone (somebody still has it open).
pub const DELETE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a data plane may take to end once it is told to. What it may take for its steps is less.
pub const PLANE_END_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a data plane may take to be gone after its last word: it has nothing more to do.
pub const PLANE_GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a data plane's control socket may take to answer.
pub const SOCKET_TIMEOUT: Duration = Duration::from_secs(2);

/// Clients that may wait for the end of one device: operators, not machines.
pub const WAITERS_MAX: usize = 16;

/// Longest name of a device: fits every listing.
pub const NAME_BYTES_MAX: usize = 64;

/// How long the command of `nbd --run` may take to end when it is told to, before it is killed.
pub const CAPTIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a brokered device may leave all its requests unanswered unless the policy says otherwise: what the kernel
/// gives unprivileged servers.
pub const BROKER_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the policy may say of it: up to what the kernel calls a hung task, and long enough for a slow disk.
pub const BROKER_ANSWER_SECONDS: RangeInclusive<u64> = 2..=120;

/// How long a client of the broker may take to say what it wants: it is a message, not a dialogue.
pub const BROKER_CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the broker may take to answer: for each device it starts a process, and before that those of all who came
/// earlier; where processors are short each takes tenths of a second.
pub const BROKER_TIMEOUT: Duration = Duration::from_secs(20);

/// Clients of the broker that have not said what they want. When there are more, those whom no rule names go first.
pub const BROKER_CLIENTS_MAX: usize = 64;

/// The same of one user: others find room whatever he does.
pub const BROKER_CLIENTS_OF_USER_MAX: usize = 8;

/// Messages of one user whose files the broker is still closing, in a thread each: where that hangs, it is his own.
/// More than one, for a thread that has only just begun has had no time to end.
pub const CLOSERS_OF_USER_MAX: usize = 6;

/// The same of all users but root.
pub const CLOSERS_MAX: usize = 64;

/// How often the broker looks for devices whose warden is gone, and a warden at its device.
pub const BROKER_LOOK_TIME: Duration = Duration::from_secs(1);

/// How long a broker that begins waits for the wardens of the one before.
pub const BROKER_RETURN_TIME: Duration = Duration::from_secs(5);

/// Capabilities of one device at a time that have replies of their own.
pub const CAPABILITIES_MAX: usize = 16;

/// What `--memory-mib` may be.
pub const MEMORY_MIB: RangeInclusive<u64> = 1..=GUEST_MEMORY_BYTES_MAX >> 20;

/// What `--deadline` may be.
pub const DEADLINE_SECONDS: RangeInclusive<u64> = 1..=DEADLINE_MAX.as_secs();

/// What `--cpu-percent` may be.
pub const CPU_PERCENT: RangeInclusive<u64> = 1..=CPU_PERCENT_DEFAULT as u64;

/// What `--log-lines` may be; with 0 the guest has no log.
pub const LOG_LINES: RangeInclusive<u64> = 0..=GUEST_LOG_LINES_MAX as u64;

/// What `--compile-seconds` may be.
pub const COMPILE_SECONDS: RangeInclusive<u64> = 1..=3600;

/// What `--compile-mib` may be: with less not even the engine begins.
pub const COMPILE_MIB: RangeInclusive<u64> = 64..=1 << 20;

/// What `--transfer-kib` may be.
pub const TRANSFER_KIB: RangeInclusive<u64> =
    TRANSFER_BYTES_MIN as u64 >> 10..=TRANSFER_BYTES_MAX as u64 >> 10;
