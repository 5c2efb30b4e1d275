//! What the files of a guest come to.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};

/// What comes of it: a text without line ends, or the kind of an error.
pub(crate) fn tell(what: &str, value: &str) -> Option<String> {
    let (one, other) = value.split_once(':').unwrap_or((value, ""));
    let done = |result: io::Result<()>| result.map(|()| "done".to_owned());
    let outcome = match what {
        "list" => list(value),
        "read" => fs::read_to_string(value),
        "often" => often(value),
        "size" => fs::metadata(value).map(|about| about.len().to_string()),
        "write" => done(fs::write(one, other)),
        "append" => done(append(one, other)),
        "mkdir" => done(fs::create_dir(value)),
        "rmdir" => done(fs::remove_dir(value)),
        "remove" => done(fs::remove_file(value)),
        "rename" => done(fs::rename(one, other)),
        "link" => done(fs::hard_link(one, other)),
        "fill" => fill(value),
        _ => return None,
    };
    Some(outcome.unwrap_or_else(|why| format!("{:?}", why.kind())))
}

fn list(path: &str) -> io::Result<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let mark = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.insert(format!("{}{mark}", entry.file_name().to_string_lossy()));
    }
    let names: Vec<String> = names.into_iter().collect();
    // A disk has room for so many.
    Ok(match names.len() {
        0..=20 => names.join(" "),
        many => format!("{many} of them"),
    })
}

/// Everything that it holds in the course of time, errors included.
fn often(path: &str) -> io::Result<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        seen.insert(match fs::read_to_string(path) {
            Ok(text) => text,
            Err(why) => format!("{:?}", why.kind()),
        });
    }
    Ok(seen.into_iter().collect::<Vec<_>>().join(" "))
}

fn append(path: &str, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn fill(path: &str) -> io::Result<String> {
    let data: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all(&data)?;
    file.sync_data()?;
    file.rewind()?;
    let mut back = Vec::new();
    file.read_to_end(&mut back)?;
    file.set_len(1000)?;
    Ok(if back == data { "equal" } else { "different" }.into())
}
