//! Words of a command line: whatever they are, each is an option, or there is a complaint.

use clap::Parser;
use wasmblk::cli::{Cli, Command};
use wasmblk::store::Grant;
use wasmblk::wanted::Wanted;

/// The words are divided by lines.
pub(crate) fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for word in text.lines() {
        if let Ok(grant) = Grant::parse(word) {
            let again = Grant::new(&grant.name, &grant.path, grant.read_only, grant.direct);
            assert!(again.is_ok(), "{word}");
        }
    }
    let words = ["wasmblk", "add", "guest.wasm"].into_iter();
    // A policy would be a file of this machine.
    let given = text.lines().filter(|word| !word.starts_with("--policy"));
    if let Ok(cli) = Cli::try_parse_from(words.chain(given))
        && let Command::Add(add) = &cli.command
        && let Ok(wanted) = Wanted::new(&add.guest)
    {
        assert!(wanted.limits.memory_bytes > 0 && wanted.limits.transfer_bytes % 4096 == 0);
    }
}
