//! How rows become bytes: ids, times, JSON lines that the importer reads right, and gzip.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

use crate::FeaturesError;
use crate::exports::input;

/// Last second of the year 9999; later ones have no four-digit year.
const LAST_SECOND: u64 = 253_402_300_799;

/// An id in the form of the database's own, `c` and 24 digits or small letters, from what tells a
/// row from all others.
pub(super) fn row_id(row: &[u8]) -> String {
    let mut rest = fnv1a(row);
    let mut id = String::from("c");
    for _ in 0..24 {
        let digit = (rest % 36) as usize;
        id.push(char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[digit]));
        rest /= 36;
    }
    id
}

/// FNV-1a with 128 bits (Fowler, Noll, Vo): the same on every machine and in every version.
fn fnv1a(bytes: &[u8]) -> u128 {
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    bytes.iter().fold(start, |hash: u128, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul((1 << 88) + 0x13b)
    })
}

/// A time in seconds since 1970 as ISO 8601 writes it (UTC).
pub(super) fn timestamp(seconds: u64) -> Result<String, FeaturesError> {
    if seconds > LAST_SECOND {
        let expected = "a second before the year 10000";
        return Err(input("names.created_at", seconds.to_string(), expected));
    }
    // Days since 1 March of the year 0; a year that begins in March ends with its leap day.
    let days = seconds / 86_400 + 719_468;
    let of_era = days % 146_097; // 400 years
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153; // from March
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = days / 146_097 * 400 + year_of_era + u64::from(month >= 10);
    let month = if month < 10 { month + 3 } else { month - 9 };
    let [hour, minute, second] = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
    Ok(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
    ))
}

/// Writes `\` as `\u005c`. The importer replaces the six characters `\u0000` in a file before it
/// reads it as JSON, also where `\\u0000` means a text with those characters.
struct PlainBackslash;

impl Formatter for PlainBackslash {
    fn write_char_escape<W>(&mut self, writer: &mut W, escape: CharEscape) -> std::io::Result<()>
    where
        W: ?Sized + Write,
    {
        match escape {
            CharEscape::ReverseSolidus => writer.write_all(b"\\u005c"),
            other => CompactFormatter.write_char_escape(writer, other),
        }
    }
}

pub(super) fn add_line<T: Serialize>(lines: &mut Vec<u8>, row: &T) -> Result<(), FeaturesError> {
    row.serialize(&mut Serializer::with_formatter(&mut *lines, PlainBackslash))
        .map_err(|error| input("row", error.to_string(), "values that JSON can hold"))?;
    lines.push(b'\n');
    Ok(())
}

pub(super) fn one_line<T: Serialize>(row: &T) -> Result<Vec<u8>, FeaturesError> {
    let mut line = vec![];
    add_line(&mut line, row)?;
    Ok(line)
}

pub(super) fn gzip(lines: &[u8]) -> Result<Vec<u8>, FeaturesError> {
    // The header has no time and no name, so equal lines give equal bytes.
    let mut encoder = GzEncoder::new(vec![], Compression::new(5));
    let written = encoder.write_all(lines).and_then(|()| encoder.finish());
    written.map_err(|error| input("batch", error.to_string(), "lines that gzip can hold"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_fnv1a_with_128_bits() {
        // Test vectors of the FNV reference distribution.
        assert_eq!(fnv1a(b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(fnv1a(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
        assert_eq!(fnv1a(b"foobar"), 0x343e1662793c64bf6f0d3597ba446f18);
    }

    #[test]
    fn ids_look_like_those_of_the_database() {
        let id = row_id(b"foobar");
        assert_eq!(id.len(), 25);
        let small = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
        assert!(id.starts_with('c') && id.chars().all(small));
        assert_ne!(id, row_id(b"foobas"));
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_234_567_890, "2009-02-13T23:31:30Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(timestamp(seconds).unwrap(), expected);
        }
        assert!(timestamp(253_402_300_800).is_err());
    }
}
