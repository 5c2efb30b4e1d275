//! What root says of a disk to udev, in a file that the rules look for.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the rules look. Only root can write there: the data plane, which serves the guest, cannot.
const FOLDER: &str = "/run/wasmblk/udev";

/// What root says of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trust {
    /// The name for `/dev/disk/by-wasmblk`; letters, digits, '-', '_' and '.' only.
    pub name: Option<String>,
}

impl Trust {
    /// Says of the disk of a device that it can be trusted, and has udev look at it again. The disk must be there:
    /// what is said is said of it by its sequence number, and never holds for another one of the same name.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn give(&self, id: u32) -> io::Result<()> {
        let disk = PathBuf::from(format!("/sys/block/ublkb{id}"));
        let number = sequence_number(&disk)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(FOLDER)?;
        forget_gone();
        let mut text = "WASMBLK_TRUSTED=1\n".to_owned();
        if let Some(name) = &self.name {
            text.push_str(&format!("WASMBLK_NAME={name}\n"));
        }
        let path = Path::new(FOLDER).join(&number);
        let part = path.with_extension("part");
        fs::write(&part, text)?;
        fs::rename(part, path)?;
        // As if it were new: some rules look at disks only then.
        fs::write(disk.join("uevent"), "add")
    }
}

/// Clears away what was said of disks that are gone.
pub fn forget_gone() {
    let Ok(said) = fs::read_dir(FOLDER) else {
        return;
    };
    // Read first: a disk of which something is said later is not in it.
    let said: Vec<PathBuf> = said.flatten().map(|entry| entry.path()).collect();
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let there: Vec<String> = disks
        .filter_map(|disk| sequence_number(&disk.path()).ok())
        .collect();
    for path in said {
        let is_of = |number: &String| path.file_stem().is_some_and(|stem| *stem == **number);
        if !there.iter().any(is_of) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The number of a disk that no other gets until the next boot.
fn sequence_number(disk: &Path) -> io::Result<String> {
    let text = fs::read_to_string(disk.join("diskseq"))?;
    Ok(text.trim().to_owned())
}
