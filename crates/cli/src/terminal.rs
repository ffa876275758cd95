//! What a model or a file says, on a terminal: control characters would move the cursor, change
//! colours or worse.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};

/// A text for standard output: as it is into files and pipes, with visible control characters on a
/// terminal.
pub fn shown(text: &str) -> Cow<'_, str> {
    match stdout().is_terminal() {
        true => visible(text),
        false => Cow::Borrowed(text),
    }
}

/// Control characters but newline and tab as Unicode's pictures of them, ESC as `␛`.
pub fn visible(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if harmless(c) => out.push(c),
            '\u{7f}' => out.push('␡'),
            c if c < ' ' => out.extend(char::from_u32(0x2400 + c as u32)),
            // Writing to a string does not fail.
            c => drop(write!(out, "<U+{:04X}>", c as u32)),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(visible("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(
            visible("\u{1b}[2J\u{7}\r\u{7f}\u{9b}1m\0"),
            "␛[2J␇␍␡<U+009B>1m␀"
        );
    }
}
