//! The text of single tokens, as it appears within a longer text. A tokenizer decodes whole texts:
//! the first token of a text may lose its space, and a character may take several tokens. So a
//! token's own text is what it adds in the middle of a text, and a character of several tokens is
//! shown where it becomes whole.

use super::Tokenizer;
use crate::ModelError;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use tokenizers::DecoderWrapper;
use tokenizers::decoders::sequence::Sequence;

/// Tokens whose texts are kept, at most; the largest vocabularies have an eighth of it.
const MOST_TEXTS: u32 = 1 << 21;

/// How a tokenizer spells single bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteTokens {
    /// Every character of a token stands for a byte (GPT-2).
    Alphabet,
    /// A token `<0xE2>` is a byte (SentencePiece's byte fallback).
    Fallback,
    /// Not at all.
    None,
}

impl ByteTokens {
    pub fn of(inner: &tokenizers::Tokenizer) -> Self {
        let kind = |decoder: &DecoderWrapper| match decoder {
            DecoderWrapper::ByteLevel(_) => Self::Alphabet,
            DecoderWrapper::ByteFallback(_) => Self::Fallback,
            _ => Self::None,
        };
        let Some(decoder) = inner.get_decoder() else {
            return Self::None;
        };
        match decoder {
            DecoderWrapper::Sequence(all) => Self::of_sequence(all, kind),
            other => kind(other),
        }
    }

    fn of_sequence(all: &Sequence, kind: impl Fn(&DecoderWrapper) -> Self) -> Self {
        let all = all.get_decoders();
        match all.iter().map(&kind).find(|kind| *kind != Self::None) {
            // What else such a sequence does to a text is left to it.
            Some(Self::Alphabet) if all.len() > 1 => Self::None,
            Some(kind) => kind,
            None => Self::None,
        }
    }
}

/// A token that stands for one letter and leaves its neighbours alone, and what two of it decode
/// to: `before` for the first, `after` for one that follows.
#[derive(Debug)]
pub(super) struct Carrier {
    token: u32,
    before: String,
    after: String,
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 characters are
/// themselves, the other bytes are the characters from U+0100 on, in order.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    match u8::try_from(c) {
        Ok(byte) => printable(byte).then_some(byte),
        Err(_) => {
            let place = (c as u32).checked_sub(0x100)? as usize;
            (0..=255_u8).filter(|b| !printable(*b)).nth(place)
        }
    }
}

/// The byte of a token such as `<0xE2>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The length of the whole character that bytes begin with.
fn whole_character(bytes: &[u8]) -> Option<usize> {
    (1..=bytes.len().min(4)).find(|n| std::str::from_utf8(&bytes[..*n]).is_ok())
}

impl Tokenizer {
    /// A token as it appears in a text: with the space that belongs to it, and unlike every other
    /// token of the vocabulary. Bytes that are no whole character are written `<0xE2>`.
    ///
    /// Where two tokens stand for the same text, one of them is shown as the vocabulary spells it.
    /// The first call decodes the whole vocabulary.
    pub fn token_text(&self, token: u32) -> String {
        let texts = self.texts.get_or_init(|| self.all_texts());
        let known = texts.get(token as usize).cloned();
        known.unwrap_or_else(|| match self.inner.id_to_token(token) {
            Some(spelt) => format!("{spelt}<token {token}>"),
            None => unused(token),
        })
    }

    /// Whether a token stands for whole characters, and not for a part of one alone.
    pub fn has_whole_characters(&self, token: u32) -> bool {
        std::str::from_utf8(&self.piece(token)).is_ok()
    }

    /// A stretch of tokens, one text each, that reads as the text does when they are put together.
    /// A character of several tokens stands at the last of them; after a token that begins or ends
    /// a sequence a text begins, without the space that tokenizers put before it.
    pub fn texts(&self, tokens: &[u32]) -> Vec<String> {
        let starts = |i: usize| {
            let before = i.checked_sub(1).map(|i| tokens[i]);
            before.is_some_and(|t| Some(t) == self.bos || self.eos.contains(&t))
        };
        let mut bytes = vec![];
        let mut owners = vec![];
        for (i, token) in tokens.iter().enumerate() {
            let mut piece = self.piece(*token);
            if starts(i) && self.first_loses_its_space() && piece.first() == Some(&b' ') {
                piece.remove(0);
            }
            owners.extend(std::iter::repeat_n(i, piece.len()));
            bytes.extend(piece);
        }
        let mut texts = vec![String::new(); tokens.len()];
        let mut at = 0;
        while at < bytes.len() {
            match whole_character(&bytes[at..]) {
                Some(n) => {
                    let text = &mut texts[owners[at + n - 1]];
                    text.push_str(&String::from_utf8_lossy(&bytes[at..at + n]));
                    at += n;
                }
                None => {
                    // Writing to a string does not fail.
                    let _ = write!(texts[owners[at]], "<0x{:02X}>", bytes[at]);
                    at += 1;
                }
            }
        }
        texts
    }

    /// Token ids of a text that follows another: without the space that some tokenizers put before
    /// every text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let reads = |tokens: &[u32]| self.texts(tokens).concat() == text;
        let plain = self.encode(text)?;
        if reads(&plain) {
            return Ok(plain);
        }
        for before in ["a", ".", "\n", "e", ",", ":", "0"] {
            let (start, both) = (
                self.encode(before)?,
                self.encode(&format!("{before}{text}"))?,
            );
            if let Some(rest) = both.strip_prefix(start.as_slice())
                && reads(rest)
            {
                return Ok(rest.to_vec());
            }
        }
        Ok(plain)
    }

    /// Decodes tokens that come one after another, as text that can be shown at once.
    ///
    /// `before` are the tokens of the text that stands there already.
    pub fn stream(&self, before: &[u32]) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            tokens: before.to_vec(),
            shown: self.decode_plain(before),
        }
    }

    /// Whether the space before the first token of a text is left out.
    fn first_loses_its_space(&self) -> bool {
        *self.strips.get_or_init(|| {
            let carrier = self.carrier();
            let spaced = carrier.and_then(|_| {
                let size = u32::try_from(self.len()).unwrap_or(u32::MAX);
                (0..size).find(|token| {
                    let piece = self.piece(*token);
                    piece.len() > 1 && piece[0] == b' ' && piece[1].is_ascii_alphanumeric()
                })
            });
            spaced.is_some_and(|token| !self.decode(&[token]).starts_with(' '))
        })
    }

    /// The bytes that a token adds in the middle of a text.
    fn piece(&self, token: u32) -> Vec<u8> {
        let Some(spelt) = self.inner.id_to_token(token) else {
            return unused(token).into_bytes();
        };
        match self.bytes {
            ByteTokens::Alphabet => {
                let bytes: Option<Vec<u8>> = spelt.chars().map(byte_of).collect();
                return bytes.unwrap_or_else(|| spelt.into_bytes());
            }
            ByteTokens::Fallback => {
                if let Some(byte) = fallback_byte(&spelt) {
                    return vec![byte];
                }
            }
            ByteTokens::None => {}
        }
        let between = self.carrier().and_then(|carrier| {
            let all = self.decode(&[carrier.token, token, carrier.token]);
            let rest = all.strip_prefix(carrier.before.as_str())?;
            Some(rest.strip_suffix(carrier.after.as_str())?.to_owned())
        });
        between
            .unwrap_or_else(|| self.decode(&[token]))
            .into_bytes()
    }

    fn carrier(&self) -> Option<&Carrier> {
        let find = || {
            let size = u32::try_from(self.inner.get_vocab_size(true)).unwrap_or(u32::MAX);
            (0..size).find_map(|token| {
                let spelt = self.inner.id_to_token(token)?;
                if spelt.len() > 4 || !spelt.ends_with(|c: char| c.is_ascii_alphabetic()) {
                    return None;
                }
                let [one, two, three] = [1, 2, 3].map(|n| self.decode(&vec![token; n]));
                let after = two.strip_prefix(one.as_str())?;
                let plain = after.len() == 1 && after.bytes().all(|b| b.is_ascii_alphabetic());
                (plain && three == format!("{two}{after}")).then(|| Carrier {
                    token,
                    before: one,
                    after: after.to_owned(),
                })
            })
        };
        self.carrier.get_or_init(find).as_ref()
    }

    /// Every token's text, no two the same.
    fn all_texts(&self) -> Vec<String> {
        let highest = self.inner.get_vocab(true).into_values().max();
        // A file may number its tokens as it likes.
        let size = highest.map_or(0, |id| id.saturating_add(1).min(MOST_TEXTS));
        let spelt: Vec<String> = (0..size)
            .map(|id| self.inner.id_to_token(id).unwrap_or_else(|| unused(id)))
            .collect();
        let mut texts: Vec<String> = (0..size)
            .map(|id| self.texts(&[id]).concat())
            .zip(&spelt)
            .map(|(text, spelt)| if text.is_empty() { spelt.clone() } else { text })
            .collect();
        let mut of_text: HashMap<&str, Vec<usize>> = HashMap::new();
        for (id, text) in texts.iter().enumerate() {
            of_text.entry(text).or_default().push(id);
        }
        let mut others = vec![];
        for ids in of_text.into_values().filter(|ids| ids.len() > 1) {
            // A token that is a byte gives way to one that is a text, a higher number to a lower
            // one.
            let keeps = ids.iter().min_by_key(|id| {
                let byte = fallback_byte(&spelt[**id]).is_some();
                (byte, **id)
            });
            others.extend(ids.iter().filter(|id| Some(*id) != keeps).copied());
        }
        others.sort_unstable();
        let mut taken: HashSet<String> = texts.iter().cloned().collect();
        for id in others {
            let mut other = spelt[id].clone();
            if taken.contains(&other) {
                other = format!("{}<token {id}>", texts[id]);
            }
            taken.insert(other.clone());
            texts[id] = other;
        }
        texts
    }
}

/// How a number is shown that the tokenizer has no token for; models round their vocabularies up.
fn unused(token: u32) -> String {
    format!("<unused {token}>")
}

/// The text of tokens that come one after another.
///
/// What is handed out, put together, is the text of all of them without special tokens, as
/// transformers decodes it.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    shown: String,
}

impl TextStream<'_> {
    /// Takes up a token; what can be shown now. What may still change stays back, such as the part
    /// of a character.
    pub fn push(&mut self, token: u32) -> String {
        self.tokens.push(token);
        let spelt = self.tokenizer.inner.id_to_token(token);
        let byte = self.tokenizer.bytes == ByteTokens::Fallback
            && spelt.is_some_and(|spelt| fallback_byte(&spelt).is_some());
        let text = self.tokenizer.decode_plain(&self.tokens);
        // A run of bytes is read as a whole, so its first bytes may turn out as none of a
        // character.
        if byte || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return String::new();
        }
        match text.strip_prefix(self.shown.as_str()) {
            None => String::new(),
            Some(new) => {
                let new = new.to_owned();
                self.shown = text;
                new
            }
        }
    }

    /// The rest of the text.
    pub fn finish(self) -> String {
        let text = self.tokenizer.decode_plain(&self.tokens);
        match text.strip_prefix(self.shown.as_str()) {
            Some(rest) => rest.to_owned(),
            // Later tokens changed the text that was already shown.
            None => text.chars().skip(self.shown.chars().count()).collect(),
        }
    }
}
