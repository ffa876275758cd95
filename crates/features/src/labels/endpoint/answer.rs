//! The JSON of chat completions: what is sent, what a reply says, and what of it may be printed.

use super::super::prompts::Message;
use super::EndpointConfig;
use lapidary_io::Checksum;
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// Most characters of a server's message in an error.
const MAX_MESSAGE: usize = 300;

/// The body of a request. The same request is always the same bytes.
pub(super) fn request_body(config: &EndpointConfig, messages: &[Message]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        model: &'a str,
        messages: Vec<Entry<'a>>,
        temperature: f64,
        max_tokens: u32,
    }
    #[derive(Serialize)]
    struct Entry<'a> {
        role: &'static str,
        content: &'a str,
    }
    let body = Body {
        model: &config.model,
        messages: messages
            .iter()
            .map(|message| Entry {
                role: message.role.name(),
                content: &message.content,
            })
            .collect(),
        temperature: config.temperature,
        max_tokens: config.max_tokens,
    };
    // Text and finite numbers always have a form in JSON.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// A checksum over the parts, one after the other, in hexadecimal digits: the same on any machine
/// and in any version, unlike std's hashes. It protects against mistakes, not attackers.
pub(super) fn digest(parts: &[&[u8]]) -> String {
    let mut sum = Checksum::default();
    parts.iter().for_each(|part| sum.update(part));
    format!("{:016x}", sum.finish())
}

/// What a successful answer holds.
#[derive(Debug, PartialEq)]
pub(super) struct Completion {
    /// `None` if it is malformed.
    pub(super) text: Option<String>,
    /// Tokens read.
    pub(super) prompt: u64,
    /// Tokens written.
    pub(super) made: u64,
}

/// Reads the text of the first choice and the tokens used. What is not there or of another type is
/// `None` or 0.
pub(super) fn completion(body: &[u8]) -> Completion {
    let mut body: Value = serde_json::from_slice(body).unwrap_or_default();
    let tokens = |name| body.pointer(name).and_then(Value::as_u64).unwrap_or(0);
    let (prompt, made) = (
        tokens("/usage/prompt_tokens"),
        tokens("/usage/completion_tokens"),
    );
    let content = body.pointer_mut("/choices/0/message/content");
    let text = match content.map(Value::take) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    Completion { text, prompt, made }
}

/// The message in the body of an error, in the forms that servers use, or else the whole body.
pub(super) fn server_message(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let names = [
        "/error/message",
        "/error",
        "/message",
        "/detail",
        "/0/error/message",
    ];
    let text = names
        .iter()
        .find_map(|name| json.pointer(name).and_then(Value::as_str));
    match text {
        Some(text) => text.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    }
}

/// Text without control characters and without the key, cut to 300 characters.
pub(super) fn printable(text: &str, key: Option<&str>) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    // After the control characters, which could part the key, and before the cut, which could
    // leave a part of it.
    let text = match key {
        Some(key) => text.replace(key, "[key]"),
        None => text,
    };
    text.trim().chars().take(MAX_MESSAGE).collect()
}

/// How long `Retry-After` asks to wait: seconds, or until a date. `None` if it is neither.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that does not fit is longer than anyone waits.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(http_date(value)?);
    Some(until.duration_since(now).unwrap_or_default())
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, IMF-fixdate).
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, date) = text.split_once(", ")?;
    let [day, month, year, time, "GMT"] = date.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let number = |text: &str, digits: usize| {
        let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| is_number)
    };
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>()[..] else {
        return None;
    };
    let (hour, minute, second) = (number(hour, 2)?, number(minute, 2)?, number(second, 2)?);
    let month = MONTHS.iter().position(|name| *name == month)?;
    let (day, year) = (number(day, 2)?, number(year, 4)?);
    let is_date = (1970..).contains(&year) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years begin in March here, so that the day that leap years add is their last.
    let (year, month) = match month {
        0 | 1 => (year - 1, month as u64 + 10),
        _ => (year, month as u64 - 2),
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leap_days + (153 * month + 2) / 5 + day - 1;
    const DAYS_TO_1970: u64 = 719_468;
    Some((days - DAYS_TO_1970) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_xxh64() {
        // xxhash.xxh64(…).hexdigest() in Python
        assert_eq!(digest(&[]), "ef46db3751d8e999");
        assert_eq!(digest(&[b"a"]), "d24ec4f1a98c6e5b");
        assert_eq!(digest(&[b"foo", b"", b"bar"]), "a2aa05ed9085aaf9");
    }

    #[test]
    fn dates_are_seconds_since_1970() {
        // Computed with Python's calendar.timegm.
        for (date, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 12:00:00 GMT", 1_709_208_000),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Wed, 31 Dec 2099 23:59:59 GMT", 4_102_444_799),
        ] {
            assert_eq!(http_date(date), Some(expected), "{date}");
        }
        for wrong in [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 00 Nov 1994 08:00:00 GMT",
            "Sun, 06 Nov 0000 08:00:00 GMT",
            "Sun, 06 Nov +994 08:00:00 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
        ] {
            assert_eq!(http_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_server_names_its_wait_in_seconds_or_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds(" 17 "), Some(17));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:00 GMT"), Some(23));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(seconds("99999999999999999999999"), Some(u64::MAX));
        for wrong in ["", "-1", "1.5", "+3", "soon"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_reply_without_text_is_malformed_but_its_tokens_count() {
        let used = r#""usage":{"prompt_tokens":7,"completion_tokens":2}"#;
        let of = |choices: &str| completion(format!("{{{choices}{used}}}").as_bytes());
        let right = of(r#""choices":[{"message":{"content":"[1]"}}],"#);
        assert_eq!(right.text.as_deref(), Some("[1]"));
        assert_eq!((right.prompt, right.made), (7, 2));
        for wrong in [
            "",
            r#""choices":[],"#,
            r#""choices":[{}],"#,
            r#""choices":[{"message":{"content":null}}],"#,
            r#""choices":[{"message":{"content":[1]}}],"#,
            r#""choices":"[1]","#,
        ] {
            let found = of(wrong);
            assert_eq!((found.text, found.prompt), (None, 7), "{wrong}");
        }
        let deep = "[".repeat(100_000);
        for wrong in ["", "<html>", "{", "3", &deep] {
            let found = completion(wrong.as_bytes());
            assert_eq!((found.text, found.prompt), (None, 0));
        }
    }

    #[test]
    fn a_message_is_one_short_line_without_the_key() {
        let of = |body: &str| printable(&server_message(body.as_bytes()), Some("sk-1"));
        assert_eq!(
            of(r#"{"error":{"message":"no such model"}}"#),
            "no such model"
        );
        assert_eq!(of(r#"{"error":"no such model"}"#), "no such model");
        assert_eq!(of(r#"{"detail":"no such model"}"#), "no such model");
        assert_eq!(of("\u{1b}[31mno\r\n "), "[31mno");
        assert_eq!(of("the key sk-1 and s\u{0}k-1"), "the key [key] and [key]");
        let parted = format!("{}sk-1", "x".repeat(MAX_MESSAGE - 2));
        assert!(!of(&parted).contains("sk"));
        assert_eq!(of(&"é".repeat(1000)).chars().count(), MAX_MESSAGE);
    }
}
