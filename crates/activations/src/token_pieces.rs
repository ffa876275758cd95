//! Token ids of a text of any length in bounded memory: a tokenizer takes more than a hundred times
//! a text's size, so a long text goes through it a window at a time.
//!
//! Windows overlap. In the overlap both give tokens; where they are the same tokens of the same
//! bytes over half of the overlap, one continues the other, since what decides a token lies nearby:
//! a split at white space, a word's merges. The ids are then those of the whole text. Where an
//! overlap does not agree (a word that is longer than it, say) it is made larger, up to half a
//! window; a text without such a place, which is no text in words, is cut behind a token, and the
//! tokens there may be other ones.

use crate::ActivationsError;
use lapidary_model::Tokenizer;
use std::collections::VecDeque;

/// How long a window is, and how much of it the next one has too, in bytes.
#[derive(Debug, Clone, Copy)]
struct Windows {
    length: usize,
    overlap: usize,
}

const WINDOWS: Windows = Windows {
    length: 1 << 17,
    overlap: 1 << 12,
};

/// Windows tokenized at once, in parallel.
const AT_ONCE: usize = 8;

/// A token and the bytes of the text that it stands for.
type Token = (u32, (usize, usize));

/// A text's token ids, piece by piece.
pub struct TokenPieces {
    text: String,
    windows: Windows,
    /// Windows that were tokenized ahead: where each begins and ends, with its tokens.
    ahead: VecDeque<Window>,
    current: Option<Window>,
    /// Tokens of the current window that were handed out.
    used: usize,
    ended: bool,
}

struct Window {
    start: usize,
    end: usize,
    tokens: Vec<Token>,
}

impl TokenPieces {
    /// A text before its first piece.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self::with_windows(text, WINDOWS)
    }

    fn with_windows(text: String, windows: Windows) -> Self {
        Self {
            text,
            windows,
            ahead: VecDeque::new(),
            current: None,
            used: 0,
            ended: false,
        }
    }

    /// Whether a text is tokenized at once.
    pub(crate) fn is_short(text: &str) -> bool {
        text.len() <= WINDOWS.length
    }

    /// The next token ids; none at the text's end. Always ask with the same tokenizer.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn next_piece(
        &mut self,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Vec<u32>>, ActivationsError> {
        if self.ended {
            return Ok(None);
        }
        if self.current.is_none() && self.text.len() <= self.windows.length {
            self.ended = true;
            return Ok(Some(tokenizer.encode(&self.text)?));
        }
        let current = match self.current.take() {
            Some(window) => window,
            None => self.window(tokenizer, 0)?,
        };
        if current.end == self.text.len() {
            self.ended = true;
            let rest = &current.tokens[self.used..];
            return Ok(Some(rest.iter().map(|(id, _)| *id).collect()));
        }
        let mut overlap = self.windows.overlap;
        while overlap <= self.windows.length / 2 {
            let start = self.boundary(current.end - overlap);
            let next = self.window(tokenizer, start)?;
            if let Some((here, there)) = meeting(&current, &next)
                && here >= self.used
            {
                let piece = current.tokens[self.used..here].iter();
                let piece = piece.map(|(id, _)| *id).collect();
                (self.current, self.used) = (Some(next), there);
                return Ok(Some(piece));
            }
            self.ahead.clear();
            overlap *= 2;
        }
        // No place where two windows agree.
        let middle = current.end - self.windows.overlap;
        let fits = |(i, (_, (_, end))): &(usize, &Token)| *i >= self.used && *end > middle;
        let last = current.tokens.iter().enumerate().find(fits);
        let (n, end) = match last {
            Some((i, (_, (_, end)))) => {
                // A character may be several tokens.
                let rest = current.tokens[i + 1..].iter();
                let same = rest.take_while(|(_, (from, _))| from < end).count();
                (i + 1 + same, self.boundary(*end))
            }
            None => (current.tokens.len(), current.end),
        };
        let piece = current.tokens[self.used..n].iter();
        let piece = piece.map(|(id, _)| *id).collect();
        (self.current, self.used) = (Some(self.window(tokenizer, end)?), 0);
        Ok(Some(piece))
    }

    /// The last boundary between characters at or before a byte.
    fn boundary(&self, mut at: usize) -> usize {
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }

    /// The window that begins at `start`. Those behind it are tokenized together with it.
    fn window(&mut self, tokenizer: &Tokenizer, start: usize) -> Result<Window, ActivationsError> {
        if self.ahead.front().is_none_or(|next| next.start != start) {
            self.ahead.clear();
            let (mut ranges, mut at) = (vec![], start);
            while ranges.len() < AT_ONCE {
                let end = self.boundary((at + self.windows.length).min(self.text.len()));
                ranges.push(at..end);
                if end == self.text.len() {
                    break;
                }
                at = self.boundary(end - self.windows.overlap);
            }
            let texts = ranges.iter().map(|range| &self.text[range.clone()]);
            let tokens = tokenizer.encode_batch_with_offsets(texts.collect())?;
            let windows = ranges.into_iter().zip(tokens).map(|(range, mut tokens)| {
                for (_, (from, to)) in &mut tokens {
                    *from += range.start;
                    *to += range.start;
                }
                Window {
                    start: range.start,
                    end: range.end,
                    tokens,
                }
            });
            self.ahead.extend(windows);
        }
        Ok(self.ahead.pop_front().expect("just filled"))
    }
}

/// Where the tokens of one window continue in the next: a place in each, if both have the same
/// tokens in the middle half of what they share.
fn meeting(current: &Window, next: &Window) -> Option<(usize, usize)> {
    let quarter = (current.end - next.start) / 4;
    let middle = next.start + quarter..current.end - quarter;
    let inside = |window: &Window| {
        let first = |at: usize| {
            let later = |(_, (from, _)): &Token| *from >= at;
            let found = window.tokens.iter().position(later);
            found.unwrap_or(window.tokens.len())
        };
        first(middle.start)..first(middle.end)
    };
    let (here, there) = (inside(current), inside(next));
    let same = current.tokens[here.clone()] == next.tokens[there.clone()];
    same.then(|| {
        let half = here.len() / 2;
        (here.start + half, there.start + half)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
    }

    /// A byte-level BPE, a BPE without any splitting, WordPiece on split words, and Unigram that
    /// strips its text.
    fn tokenizers() -> Vec<(&'static str, Tokenizer)> {
        let folder = tempfile::tempdir().unwrap();
        let made = |json: serde_json::Value| {
            let path = folder.path().join("tokenizer.json");
            std::fs::write(&path, json.to_string()).unwrap();
            Tokenizer::read(&path, None, &[]).unwrap()
        };
        let letters = ('a'..='z').chain("0123456789.,;:'()".chars());
        let mut words = serde_json::Map::new();
        words.insert("[UNK]".into(), 0.into());
        for piece in letters
            .clone()
            .flat_map(|c| [c.to_string(), format!("##{c}")])
        {
            words.insert(piece, words.len().into());
        }
        for piece in ["the", "of", "##ing", "##ed", "congress", "united"] {
            words.insert(piece.into(), words.len().into());
        }
        let mut pieces = vec![json!(["<unk>", 0.0]), json!(["▁", -3.0])];
        pieces.extend(letters.map(|c| json!([c.to_string(), -5.0])));
        for (piece, score) in [
            ("▁the", -2.0),
            ("▁of", -2.5),
            ("ing", -4.0),
            ("▁con", -4.0),
            ("gress", -4.5),
        ] {
            pieces.push(json!([piece, score]));
        }
        let shell = |model, normalizer, pre_tokenizer| {
            json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
                "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model,
            })
        };
        let word_piece = shell(
            json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": words}),
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
            json!({"type": "BertPreTokenizer"}),
        );
        let unigram = shell(
            json!({"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false}),
            json!({"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": true, "strip_right": true}, {"type": "NFKC"}, {"type": "Lowercase"}]}),
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        );
        let read = |path: &str| Tokenizer::read(&root().join(path), None, &[]).unwrap();
        vec![
            (
                "byte-level BPE",
                read("crates/model/embedded/tokenizer.json"),
            ),
            (
                "BPE of whole texts",
                read("tests/fixtures/models/sentencepiece-like/tokenizer.json"),
            ),
            ("WordPiece", made(word_piece)),
            ("Unigram", made(unigram)),
        ]
    }

    fn speeches(bytes: usize) -> String {
        let documents = crate::Corpus::open("embedded:heldout", "text")
            .unwrap()
            .documents();
        let mut text: String = documents.take(2).map(|d| d.unwrap().text).collect();
        while !text.is_char_boundary(bytes) {
            text.pop();
        }
        text.truncate(bytes);
        text
    }

    fn in_pieces(text: &str, tokenizer: &Tokenizer, windows: Windows) -> (Vec<u32>, usize) {
        let mut pieces = TokenPieces::with_windows(text.to_owned(), windows);
        let (mut tokens, mut count) = (vec![], 0);
        while let Some(piece) = pieces.next_piece(tokenizer).unwrap() {
            tokens.extend(piece);
            count += 1;
        }
        assert!(pieces.next_piece(tokenizer).unwrap().is_none());
        (tokens, count)
    }

    #[test]
    fn pieces_give_the_tokens_of_the_whole_text() {
        let speech = speeches(40_000);
        let one_line = speech.replace('\n', " ");
        // Accents, characters of several bytes, text without white space, special tokens, and a lot
        // of white space.
        let mixed = format!(
            "{}{}<|endoftext|>{}{}",
            speech[..3000].replace('e', "é"),
            "名前はまだ無い。どこで生れたか頓と見當がつかぬ。".repeat(60),
            " \n\t ".repeat(300),
            "https://example.org/a?b=c&d=e_0123456789,".repeat(60),
        );
        for (name, tokenizer) in tokenizers() {
            for text in [&speech, &one_line, &mixed] {
                let whole = tokenizer.encode(text).unwrap();
                for (length, overlap) in [(4096, 512), (5001, 333), (1 << 14, 1 << 11)] {
                    let (tokens, count) = in_pieces(text, &tokenizer, Windows { length, overlap });
                    assert!(count > text.len() / length, "{name}: {count} pieces");
                    assert!(tokens == whole, "{name}, windows of {length}");
                }
            }
            for text in ["", "a", "the"] {
                let (tokens, _) = in_pieces(text, &tokenizer, WINDOWS);
                assert_eq!(tokens, tokenizer.encode(text).unwrap(), "{name} {text:?}");
            }
        }
    }

    #[test]
    fn a_text_that_no_window_can_divide_keeps_all_its_characters() {
        let (_, tokenizer) = tokenizers().swap_remove(0);
        // A random word of 20,000 characters, and one of characters of three bytes.
        let mut state = 1_u64;
        let mut letter = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(b'a' + (state >> 60) as u8)
        };
        let word: String = (0..20_000).map(|_| letter()).collect();
        for text in [word, "語".repeat(7000), "a".repeat(20_000)] {
            let windows = Windows {
                length: 4096,
                overlap: 256,
            };
            let (tokens, count) = in_pieces(&text, &tokenizer, windows);
            assert!(count > 4);
            assert!(tokenizer.decode(&tokens) == text);
        }
    }
}
