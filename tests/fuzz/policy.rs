//! Policy files, of guests and of the broker: whatever is in them, there is a policy or one line that says why not.

use std::path::Path;

use wasmblk::broker::{self, parse_names};
use wasmblk::policy::Policy;

pub(crate) fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let users = parse_names("root:x:0:0::/:\nalice:x:1000:1000::/:\n");
    if let Err(why) = broker::Policy::parse(&text, &users, &users) {
        assert!(!why.is_empty());
    }
    // Names and numbers may come from a file as well.
    let _ = parse_names(&text);
    if let Err(why) = Policy::parse(Path::new("policy.toml"), text) {
        assert!(why.chain().contains("policy.toml"), "{}", why.chain());
    }
}
