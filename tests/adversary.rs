//! Guests that want to do harm, each beside another guest that serves meanwhile.

mod neighbour;
mod suite;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tests::PATIENCE;
use wasmblk::block::{Backend, Errno};
use wasmblk::guest::Limits;

use self::suite::case::{Case, End};
pub(crate) use self::suite::component::{instances_without_end, large_instances};
pub(crate) use self::suite::greedy::{Greedy, greedy_guests, guest_with_a_name};
pub(crate) use self::suite::ring::many_ops;
pub(crate) use self::suite::straight::writes_in_a_row;
pub(crate) use self::suite::text::{self, large_guest};
use self::suite::{component, device, files, handles, open_files, ring, start, straight};
use crate::cli::Folder;
use crate::direct::{self, Direct, Prepared};

/// What a case came to, with the words that say why.
fn try_out(case: &Case, path: &str, grant: &str, deadline: Duration) -> (End, String) {
    let limits = Limits {
        log_lines: 0,
        deadline,
        ..direct::limits()
    };
    let grants = [grant.to_owned()];
    let opened = Prepared::with_directories(path, &grants, limits).and_then(|guest| guest.direct());
    let mut disk = match opened {
        Ok(disk) => disk,
        Err(error) => return (End::Refused(""), error.chain()),
    };
    let block = disk.geometry.logical_block_bytes as usize;
    let length = block
        .max(4096)
        .min(disk.geometry.max_transfer_bytes as usize);
    let mut data = vec![1; length];
    let mut results = vec![disk.read(0, &mut data)];
    if !disk.geometry.read_only {
        results.push(disk.write(0, &data, false));
        results.push(disk.flush());
    }
    results.push(disk.read(0, &mut data));
    let used = disk.guest.usage().memory_bytes;
    assert!(used <= limits.memory_bytes, "{}: {used} bytes", case.name);
    if let Some(reason) = disk.health.reason() {
        assert_eq!(results.last(), Some(&Err(Errno::EIO)), "{}", case.name);
        return (End::Ended(""), reason);
    }
    if results.iter().any(Result::is_err) {
        return (End::Errors, format!("{results:?}"));
    }
    (End::Serves, String::new())
}

/// Tries it out; says what is wrong.
fn complaint(case: &Case, folder: &Folder) -> Option<String> {
    let path = folder.file("guest.wasm", &case.bytes);
    let grant = format!("/granted={}", folder.path("granted"));
    let attempt = |deadline_ms| {
        let begin = Instant::now();
        let deadline = Duration::from_millis(deadline_ms);
        let (end, words) = try_out(case, &path, &grant, deadline);
        let took = begin.elapsed();
        let right = match (case.end, end) {
            (End::Contained, _) => true,
            (End::Refused(says), End::Refused(_)) | (End::Ended(says), End::Ended(_)) => {
                words.contains(says)
            }
            (wanted, end) => wanted == end,
        };
        if right && took < PATIENCE {
            return Ok(());
        }
        let (name, wanted) = (&case.name, case.end);
        Err(format!(
            "{name}: {wanted:?} wanted, {end:?} after {took:?}: {words}"
        ))
    };
    let why = attempt(250).err()?;
    // A thread that is held up reaches a short deadline where it should not; twenty times that it does not.
    let is_to =
        matches!(case.end, End::Refused(says) | End::Ended(says) if says.contains("deadline"));
    if why.contains("deadline") && !is_to {
        return attempt(5000).err();
    }
    Some(why)
}

/// Lets the neighbour end, also where a case panics.
struct EndOfTest<'a>(&'a AtomicBool);

impl Drop for EndOfTest<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Tries all of them out, beside a guest that is read without a pause.
fn all_are_contained(name: &str, cases: impl Iterator<Item = Case>, count_min: usize) -> Folder {
    let folder = Folder::new(name);
    fs::create_dir_all(folder.path("granted/deep")).expect("folders");
    folder.file("granted/file", b"content");
    let pipe = folder.path("granted/pipe");
    mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    folder.file("secret", b"secret");
    let (ends, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let neighbour = || {
        let mut disk = Direct::open("memory", &[("size", "1M")]).expect("it opens");
        let data: Vec<u8> = (0..=250).cycle().take(64 << 10).collect();
        disk.write(4096, &data, false).expect("write");
        let (mut back, mut longest) = (vec![0; data.len()], Duration::ZERO);
        while !ends.load(Relaxed) {
            let begin = Instant::now();
            disk.read(4096, &mut back).expect("read");
            longest = longest.max(begin.elapsed());
            assert!(back == data, "the neighbour's data");
            reads.fetch_add(1, Relaxed);
            thread::sleep(Duration::from_millis(1));
        }
        longest
    };
    let mut count = 0;
    let (complaints, longest) = thread::scope(|scope| {
        let neighbour = scope.spawn(neighbour);
        let end = EndOfTest(&ends);
        let tried = cases.inspect(|_| count += 1);
        let complaints: Vec<String> = tried.filter_map(|case| complaint(&case, &folder)).collect();
        drop(end);
        (complaints, neighbour.join().expect("the neighbour serves"))
    });
    assert!(
        complaints.is_empty(),
        "{} of {count}:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
    assert!(count >= count_min, "{count} cases");
    let content = |name: &str| fs::read_to_string(folder.path(name)).expect("it is there");
    assert_eq!(content("granted/file"), "content");
    assert_eq!(content("secret"), "secret");
    assert!(longest < PATIENCE, "the neighbour waited for {longest:?}");
    assert!(reads.load(Relaxed) > 0);
    folder
}

#[test]
fn hostile_functions_are_contained() {
    all_are_contained("functions", device::all(), 100);
}

#[test]
fn hostile_records_are_contained() {
    all_are_contained("records", ring::all(), 300);
}

#[test]
fn hostile_beginnings_are_contained() {
    all_are_contained("beginnings", start::all(), 15);
}

#[test]
fn hostile_components_are_contained() {
    all_are_contained("components", component::all(), 25);
}

#[test]
fn hostile_use_of_handles_is_contained() {
    all_are_contained("handles", handles::all(), 35);
}

#[test]
fn hostile_calls_in_a_row_are_contained() {
    all_are_contained("in-a-row", straight::all(), 1);
}

#[test]
fn hostile_use_of_files_is_contained() {
    let folder = all_are_contained("open-files", open_files::all(), 39);
    let changed = |name: &str| {
        let about = fs::metadata(folder.path(name)).expect("it is there");
        let since = about
            .modified()
            .expect("it has one")
            .duration_since(UNIX_EPOCH);
        since.expect("later").as_secs()
    };
    for name in ["granted/file", "granted/pipe", "granted/deep"] {
        assert_eq!(changed(name), open_files::CHANGED_SECONDS, "{name}");
    }
    assert_ne!(changed("secret"), open_files::CHANGED_SECONDS);
}

#[test]
fn hostile_files_are_refused() {
    all_are_contained("files", files::all().into_iter(), 30);
}

#[test]
fn guests_with_wrong_bytes_are_contained() {
    all_are_contained("mutants", files::mutants(400), 400);
}

#[test]
fn guests_with_sections_in_other_places_are_contained() {
    all_are_contained("sections", files::rearranged(), 20);
}

#[test]
fn guests_with_wrong_code_are_contained() {
    let folder = Folder::new("valid");
    let loads = |case: &Case| {
        let path = folder.file("guest.wasm", &case.bytes);
        Prepared::of_file(&path, direct::limits()).is_ok()
    };
    let mutants = files::mutants_of_code().take(1000).filter(loads).take(100);
    all_are_contained("code", mutants, 100);
}
