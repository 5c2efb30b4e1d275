//! Sizes as operators write them.

/// Reads a number of bytes: digits, then nothing or one of the units K, M, G, T (powers of 1024;
/// lower case and a following `iB` are fine too).
///
/// # Errors
///
/// Says what is wrong, in words for the operator.
pub fn parse_size(text: &str) -> Result<u64, &'static str> {
    let unit_start = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_start);
    if digits.is_empty() {
        return Err("expected a number of bytes, such as 10G");
    }
    let shift = match unit {
        "" | "B" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return Err("the unit must be K, M, G or T (powers of 1024)"),
    };
    let number: u64 = digits.parse().map_err(|_| "that is more than 2^64 bytes")?;
    number
        .checked_mul(1 << shift)
        .ok_or("that is more than 2^64 bytes")
}
