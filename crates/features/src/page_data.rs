//! What the data in a page are made of: short numbers, and a table of token texts that windows of
//! tokens point into.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Digits of a token number; they need no escape in JSON or HTML.
pub(crate) const DIGITS: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A number in at most three significant digits (`null` if it is not finite).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Short(pub(crate) f64);

impl Short {
    /// The number as it is shown.
    pub(crate) fn rounded(self) -> f64 {
        format!("{:.2e}", self.0).parse().unwrap_or(f64::NAN)
    }
}

impl Serialize for Short {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded = self.rounded();
        if !rounded.is_finite() {
            serializer.serialize_none()
        } else if rounded.fract() == 0.0 && rounded.abs() < 1e15 {
            serializer.serialize_i64(rounded as i64)
        } else {
            serializer.serialize_f64(rounded)
        }
    }
}

impl From<f32> for Short {
    fn from(value: f32) -> Self {
        Short(f64::from(value))
    }
}

/// Each token text once, in order of first use.
#[derive(Default)]
pub(crate) struct TokenTable<'a> {
    texts: Vec<&'a str>,
    places: HashMap<&'a str, usize>,
}

impl<'a> TokenTable<'a> {
    /// The number of a text.
    pub(crate) fn place(&mut self, text: &'a str) -> usize {
        *self.places.entry(text).or_insert_with(|| {
            self.texts.push(text);
            self.texts.len() - 1
        })
    }

    /// Digits of a number of a text that is known by now.
    pub(crate) fn digits(&self) -> usize {
        digits_for(self.texts.len())
    }

    /// Tokens as numbers of so many base-64 digits each; all of them are known.
    pub(crate) fn encode(&mut self, tokens: &'a [Arc<str>], digits: usize) -> String {
        let mut numbers = String::with_capacity(tokens.len() * digits);
        for text in tokens {
            let place = self.place(text);
            for digit in (0..digits).rev() {
                numbers.push(char::from(DIGITS[(place >> (6 * digit)) % 64]));
            }
        }
        numbers
    }

    /// All texts, by number.
    pub(crate) fn into_texts(self) -> Vec<&'a str> {
        self.texts
    }
}

fn digits_for(tokens: usize) -> usize {
    (1..)
        .find(|&digits| tokens <= 64usize.saturating_pow(digits))
        .map_or(1, |digits| digits as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown = |value: f64| serde_json::to_string(&Short(value)).unwrap();
        assert_eq!(shown(0.123_456), "0.123");
        assert_eq!(shown(12.0), "12");
        assert_eq!(shown(98_765.0), "98800");
        assert_eq!(shown(-1.234e-9), "-1.23e-9");
        assert_eq!(shown(f64::NAN), "null");
    }

    #[test]
    fn token_numbers_have_as_many_digits_as_the_table_needs() {
        assert_eq!(
            [0, 1, 64, 65, 4096, 4097].map(digits_for),
            [1, 1, 1, 2, 2, 3]
        );
    }
}
