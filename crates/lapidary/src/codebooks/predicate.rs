//! Predicates over the positions of a text, for which codes are looked for.

use super::{CodebookRun, RunText};
use crate::error::{Result, bail};
use lapidary_activations::TokenBlock;
use regex::Regex;
use std::path::PathBuf;
use std::str::FromStr;

/// The forms that a predicate can have, for help and errors.
const FORMS: &str = "regex:PATTERN, next:PATTERN or topic:FILE";

/// At which positions of a text something holds.
#[derive(Debug, Clone)]
pub enum Predicate {
    /// The token is part of a match of the pattern (`regex:PATTERN`).
    Token(Regex),
    /// The next token is part of a match of the pattern (`next:PATTERN`).
    Next(Regex),
    /// The token is in one of the texts of this file, and not in the text of the run
    /// (`topic:FILE`).
    Topic(PathBuf),
}

impl FromStr for Predicate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(format!("found {text:?}, expected {FORMS}"));
        };
        let pattern = || {
            let pattern = Regex::new(rest).map_err(|error| error.to_string())?;
            match pattern.is_match("") {
                true => Err(format!(
                    "found the pattern {rest:?}, which matches an empty text, expected one that does not"
                )),
                false => Ok(pattern),
            }
        };
        match kind {
            "regex" => Ok(Self::Token(pattern()?)),
            "next" => Ok(Self::Next(pattern()?)),
            "topic" if !rest.is_empty() => Ok(Self::Topic(rest.into())),
            _ => Err(format!("found {text:?}, expected {FORMS}")),
        }
    }
}

impl Predicate {
    /// For each position of a block of the run's own text whether the predicate holds; `None` where
    /// the token does not count. A document is matched by itself, as far as the block has it.
    ///
    /// # Errors
    /// The model of a run on text has no tokenizer.
    pub fn holds(
        &self,
        run: &CodebookRun,
        text: &RunText,
        block: &TokenBlock,
    ) -> Result<Vec<Option<bool>>> {
        let counts = |token: &u32| text.counts(run, *token);
        let counting = block.tokens.iter().map(counts).collect::<Vec<bool>>();
        let (pattern, ahead) = match self {
            Self::Topic(_) => {
                return Ok(counting
                    .iter()
                    .map(|counts| counts.then_some(false))
                    .collect());
            }
            Self::Token(pattern) => (pattern, 0),
            Self::Next(pattern) => (pattern, 1),
        };
        let mut holds = vec![];
        let ends = block.segments.iter().skip(1).map(|next| next.start);
        let ends = ends.chain([block.tokens.len()]);
        for (segment, end) in block.segments.iter().zip(ends) {
            // A special token is no text.
            let tokens = &block.tokens[segment.start..end];
            let texts = run.texts(tokens)?.into_iter();
            let texts = texts.zip(&counting[segment.start..end]);
            let texts: Vec<Option<String>> =
                texts.map(|(text, counts)| counts.then_some(text)).collect();
            let matched = matched(pattern, &texts);
            holds.extend((0..tokens.len()).map(|i| matched.get(i + ahead) == Some(&true)));
        }
        if holds.len() != block.tokens.len() {
            bail!("found a block whose documents are not all of its tokens");
        }
        let each = holds.into_iter().zip(counting);
        Ok(each
            .map(|(holds, counts)| counts.then_some(holds))
            .collect())
    }
}

/// Which of the texts, put together, are in part covered by a match of the pattern. A special token
/// has none. A token without a text is the beginning of a character, whose text is at the next
/// token that has one.
fn matched(pattern: &Regex, texts: &[Option<String>]) -> Vec<bool> {
    let mut whole = String::new();
    // The bytes of each token.
    let mut ranges = vec![];
    for text in texts {
        let start = whole.len();
        whole.push_str(text.as_deref().unwrap_or_default());
        ranges.push(start..whole.len());
    }
    for (i, text) in texts.iter().enumerate() {
        if text.as_ref().is_some_and(String::is_empty) {
            let first = whole[ranges[i].start..].chars().next();
            ranges[i].end += first.map_or(0, char::len_utf8);
        }
    }
    let mut found = vec![false; texts.len()];
    let mut first = 0;
    for hit in pattern.find_iter(&whole).filter(|hit| !hit.is_empty()) {
        while first < texts.len() && ranges[first].end <= hit.start() {
            first += 1;
        }
        for (i, range) in ranges.iter().enumerate().skip(first) {
            if range.start >= hit.end() {
                break;
            }
            found[i] |= range.start < range.end && range.end > hit.start();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<Option<String>> {
        list.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn tokens_that_overlap_a_match_are_found_and_no_others() {
        let pattern = Regex::new("(?i)war ?time").unwrap();
        let list = texts(&[
            "A ", "w", "ar", " ti", "mes", ", WAR", "TIME", " or", " war",
        ]);
        let expected = [false, true, true, true, true, true, true, false, false];
        assert_eq!(matched(&pattern, &list), expected);
        // Special tokens are no text.
        let list = [None, Some("wart".to_owned()), None, Some("ime".to_owned())];
        assert_eq!(matched(&pattern, &list), [false, true, false, true]);
        // Two matches in one token, and one that ends where the next begins.
        let pattern = Regex::new("ab").unwrap();
        let list = texts(&["xab", "ababa", "b", "c"]);
        assert_eq!(matched(&pattern, &list), [true, true, true, false]);
    }

    /// The bytes of a character may be several tokens: its text is at the last of them.
    #[test]
    fn all_tokens_of_a_character_belong_to_a_match_of_it() {
        let list = texts(&["a", "", "", "\u{1F642}b", "", "\u{1F643}"]);
        let of = |pattern: &str| matched(&Regex::new(pattern).unwrap(), &list);
        assert_eq!(of("\u{1F642}"), [false, true, true, true, false, false]);
        assert_eq!(of("b"), [false, false, false, true, false, false]);
        assert_eq!(of("."), [true; 6]);
        assert_eq!(of(r"\b"), [false; 6]);
    }

    #[test]
    fn a_predicate_of_no_known_form_is_refused() {
        for text in ["war", "word:war", "topic:", "regex:(", "regex:a*", "next:"] {
            assert!(text.parse::<Predicate>().is_err(), "{text}");
        }
        assert!(matches!("regex:a:b".parse(), Ok(Predicate::Token(_))));
    }
}
