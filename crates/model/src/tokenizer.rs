//! Text to token ids and back: a thin face of the `tokenizers` crate, and the training of a byte-level BPE.

use crate::ModelError;
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

/// A model's tokenizer. Special tokens are never added by itself: whether a sequence starts with BOS is the caller's
/// stated choice, so that it cannot be doubled.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When the file cannot be read or is not a tokenizer.
    pub fn read(path: &Path, bos: Option<u32>, eos: Option<u32>) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(ModelError::read(path))?;
        Self::from_bytes(path, &bytes, bos, eos)
    }

    pub(crate) fn from_bytes(
        path: &Path,
        bytes: &[u8],
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<Self, ModelError> {
        let problem = |e: tokenizers::Error| ModelError::Tokenizer {
            path: path.into(),
            problem: e.to_string(),
        };
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(problem)?;
        Ok(Self {
            inner,
            path: path.into(),
            bos,
            eos,
        })
    }

    /// Learns a byte-level BPE of `d_vocab` tokens from texts; token 0 is `<|endoftext|>`, which marks a sequence's
    /// beginning. (Sennrich et al. 2016; GPT-2's byte alphabet and splitting.)
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
        Self::from_bytes(&path, json.as_bytes(), Some(0), Some(0))
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
        Ok(self
            .inner
            .encode_fast(text, false)
            .map_err(problem)?
            .get_ids()
            .to_vec())
    }

    /// Token ids of several texts, in parallel.
    pub fn encode_batch(&self, texts: Vec<&str>) -> Result<Vec<Vec<u32>>, ModelError> {
        let problem = |e: tokenizers::Error| ModelError::Tokenizer {
            path: self.path.clone(),
            problem: e.to_string(),
        };
        let encodings = self
            .inner
            .encode_batch_fast(texts, false)
            .map_err(problem)?;
        Ok(encodings.iter().map(|e| e.get_ids().to_vec()).collect())
    }

    /// Token ids of several texts, each with the bytes of its text that it stands for, in parallel.
    ///
    /// # Errors
    /// When the tokenizer refuses a text.
    pub fn encode_batch_with_offsets(
        &self,
        texts: Vec<&str>,
    ) -> Result<Vec<Vec<(u32, (usize, usize))>>, ModelError> {
        let problem = |e: tokenizers::Error| ModelError::Tokenizer {
            path: self.path.clone(),
            problem: e.to_string(),
        };
        let encodings = self.inner.encode_batch(texts, false).map_err(problem)?;
        let tokens = |e: &tokenizers::Encoding| {
            let ids = e.get_ids().iter().copied();
            ids.zip(e.get_offsets().iter().copied()).collect()
        };
        Ok(encodings.iter().map(tokens).collect())
    }

    /// The text of token ids, special tokens included.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, false).unwrap_or_default()
    }

    /// The text of one token; a token that is part of a character shows as `�`.
    pub fn token(&self, token: u32) -> String {
        self.decode(&[token])
    }

    /// Beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
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
