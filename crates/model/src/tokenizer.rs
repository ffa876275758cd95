//! Text to token ids and back: a thin face of the `tokenizers` crate, and the training of a
//! byte-level BPE. How single tokens look is in `tokenizer/text.rs`.

use crate::ModelError;
use lapidary_io::{python_json, read_text, without_panic};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper,
};

mod text;

pub use text::TextStream;

/// A model's tokenizer. Special tokens are never added by itself: whether a sequence starts with
/// BOS is the caller's stated choice, so that it cannot be doubled. Nor does it cut or pad,
/// whatever its file says: truncation, padding and dropout are state of the program that saved the
/// file.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bos: Option<u32>,
    eos: Vec<u32>,
    bytes: text::ByteTokens,
    carrier: OnceLock<Option<text::Carrier>>,
    texts: OnceLock<Vec<String>>,
    strips: OnceLock<bool>,
}

/// A token and the bytes of the text that it stands for, from and to.
pub type TokenPlace = (u32, (usize, usize));

/// What the tokenizers crate returns: it answers some damaged files with a panic.
fn guarded<T>(call: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, tokenizers::Error> {
    without_panic(call)?
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. `eos` are all tokens that end a sequence; the first separates
    /// documents.
    ///
    /// # Errors
    /// When the file cannot be read, is too long, or is not a tokenizer.
    pub fn read(path: &Path, bos: Option<u32>, eos: &[u32]) -> Result<Self, ModelError> {
        Self::from_text(path, &read_text(path)?, bos, eos)
    }

    /// The same of a file's text.
    pub(crate) fn from_text(
        path: &Path,
        text: &str,
        bos: Option<u32>,
        eos: &[u32],
    ) -> Result<Self, ModelError> {
        let problem = |e: tokenizers::Error| ModelError::Tokenizer {
            path: path.into(),
            problem: e.to_string(),
        };
        let json = python_json(text);
        let read = || tokenizers::Tokenizer::from_bytes(json.as_bytes());
        let mut inner = guarded(read).map_err(problem)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(problem)?;
        match inner.get_model() {
            ModelWrapper::BPE(model) if model.dropout.is_some() => {
                let mut model = model.clone();
                model.dropout = None;
                inner.with_model(model);
            }
            ModelWrapper::Unigram(model) if model.alpha.is_some() => {
                let mut model = model.clone();
                model.alpha = None;
                inner.with_model(model);
            }
            _ => {}
        }
        Ok(Self {
            bytes: text::ByteTokens::of(&inner),
            inner,
            path: path.into(),
            bos,
            eos: eos.to_vec(),
            carrier: OnceLock::new(),
            texts: OnceLock::new(),
            strips: OnceLock::new(),
        })
    }

    /// Learns a byte-level BPE of `d_vocab` tokens from texts; token 0 is `<|endoftext|>`, which
    /// marks a sequence's beginning. (Sennrich et al. 2016; GPT-2's byte alphabet and splitting.)
    ///
    /// # Errors
    /// When the texts are too few to learn from.
    pub fn train(texts: &[String], d_vocab: usize) -> Result<Self, ModelError> {
        let path = PathBuf::from("tokenizer.json");
        let problem = |e: tokenizers::Error| ModelError::Tokenizer {
            path: "tokenizer.json".into(),
            problem: e.to_string(),
        };
        let mut trainer = BpeTrainer::builder()
            .vocab_size(d_vocab)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut built = tokenizers::TokenizerBuilder::<
            BPE,
            NormalizerWrapper,
            PreTokenizerWrapper,
            PostProcessorWrapper,
            DecoderWrapper,
        >::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true).into()))
        .with_decoder(Some(ByteLevel::default().into()))
        .build()
        .map_err(problem)?;
        built.train(&mut trainer, texts.iter()).map_err(problem)?;
        let json = built.to_string(false).map_err(problem)?;
        Self::from_text(&path, &json, Some(0), &[0])
    }

    /// The tokenizer as the text of a `tokenizer.json`.
    pub fn to_json(&self) -> Result<String, ModelError> {
        let problem = |e: tokenizers::Error| ModelError::Tokenizer {
            path: self.path.clone(),
            problem: e.to_string(),
        };
        self.inner.to_string(false).map_err(problem)
    }

    /// Token ids of a text, without special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let problem = |e: tokenizers::Error| ModelError::Tokenizer {
            path: self.path.clone(),
            problem: e.to_string(),
        };
        let encoding = guarded(|| self.inner.encode_fast(text, false)).map_err(problem)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of several texts, in parallel.
    pub fn encode_batch(&self, texts: Vec<&str>) -> Result<Vec<Vec<u32>>, ModelError> {
        let problem = |e: tokenizers::Error| ModelError::Tokenizer {
            path: self.path.clone(),
            problem: e.to_string(),
        };
        let encodings = guarded(|| self.inner.encode_batch_fast(texts, false)).map_err(problem)?;
        Ok(encodings.iter().map(|e| e.get_ids().to_vec()).collect())
    }

    /// Token ids of several texts, each with the bytes of its text that it stands for, in parallel.
    ///
    /// # Errors
    /// When the tokenizer refuses a text.
    pub fn encode_batch_with_offsets(
        &self,
        texts: Vec<&str>,
    ) -> Result<Vec<Vec<TokenPlace>>, ModelError> {
        let problem = |e: tokenizers::Error| ModelError::Tokenizer {
            path: self.path.clone(),
            problem: e.to_string(),
        };
        let encodings = guarded(|| self.inner.encode_batch(texts, false)).map_err(problem)?;
        let tokens = |e: &tokenizers::Encoding| {
            let ids = e.get_ids().iter().copied();
            ids.zip(e.get_offsets().iter().copied()).collect()
        };
        Ok(encodings.iter().map(tokens).collect())
    }

    /// The text of token ids, special tokens included.
    pub fn decode(&self, tokens: &[u32]) -> String {
        guarded(|| self.inner.decode(tokens, false)).unwrap_or_default()
    }

    /// The same without special tokens.
    pub fn decode_plain(&self, tokens: &[u32]) -> String {
        guarded(|| self.inner.decode(tokens, true)).unwrap_or_default()
    }

    /// Beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that separates documents: the first of those that end a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos.first().copied()
    }

    /// Whether the file calls this token special.
    pub fn is_special(&self, token: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        self.inner
            .id_to_token(token)
            .is_some_and(|text| added.is_special_token(&text))
    }

    /// Number of tokens, added ones included.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
