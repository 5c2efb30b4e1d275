//! Words that come from guests, made fit to be shown.

/// One line of at most `bytes_max` bytes in which nothing can move a cursor or begin a new line.
#[must_use]
pub fn printable(text: &str, bytes_max: usize) -> String {
    let cut = text.floor_char_boundary(bytes_max);
    text[..cut]
        .chars()
        .map(|c| if is_harmless(c) { c } else { ' ' })
        .collect()
}

/// Neither a control character nor one that reorders, hides or breaks what stands around it.
fn is_harmless(c: char) -> bool {
    let unseen = matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    !c.is_control() && !unseen
}
