//! Token blocks: documents tokenized, joined, and cut to one length. A block begins with BOS where asked, once; documents
//! are separated by the end-of-sequence token, which never begins a block; a text that begins with BOS or ends with EOS
//! itself gets no second one; nothing of the last, incomplete block is padded, it is left out.

use crate::{ActivationsError, Corpus, Documents};
use lapidary_model::LanguageModel;
use std::collections::VecDeque;
use std::sync::Arc;

/// Documents tokenized at once, in parallel.
const DOCUMENTS: usize = 16;

/// What to cut blocks from, and how.
#[derive(Debug, Clone)]
pub struct BlockConfig {
    /// A corpus as [`Corpus::open`] takes it.
    pub corpus: String,
    /// Tokens in a block, BOS included.
    pub context: usize,
    /// Whether each block begins with the beginning-of-sequence token.
    pub prepend_bos: bool,
}

/// A sequence of tokens of fixed length.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBlock {
    /// Token ids, BOS included.
    pub tokens: Vec<u32>,
    /// The documents in the block, in order.
    pub segments: Vec<Segment>,
}

/// A stretch of one document in a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// Where in the block it begins.
    pub start: usize,
    /// Which document of the corpus, counted from 0.
    pub document: u32,
    /// How many tokens of the document come before it.
    pub offset: u32,
}

impl TokenBlock {
    /// For each token, its document and its position in it; BOS shares those of the token after it.
    pub fn places(&self) -> Vec<(u32, u32)> {
        let mut places = Vec::with_capacity(self.tokens.len());
        for (i, segment) in self.segments.iter().enumerate() {
            let end = self
                .segments
                .get(i + 1)
                .map_or(self.tokens.len(), |next| next.start);
            if places.is_empty() {
                places.resize(segment.start, (segment.document, segment.offset));
            }
            places.extend(
                (0..(end - segment.start) as u32).map(|i| (segment.document, segment.offset + i)),
            );
        }
        places
    }
}

/// An iterator over a corpus's blocks.
pub struct BlockStream {
    model: Arc<LanguageModel>,
    config: BlockConfig,
    corpus: Corpus,
    documents: Documents,
    ready: VecDeque<Vec<u32>>,
    /// The document being cut: its tokens, how many were used, its number.
    current: (Vec<u32>, usize, u32),
    next_document: u32,
    bos: Option<u32>,
    separator: Option<u32>,
    digest: u64,
}

/// Where a digest of tokens begins, and what it is multiplied with at each: FNV-1a over whole token ids.
const DIGEST: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0100_0000_01b3);

impl BlockStream {
    /// Opens a corpus for a model.
    ///
    /// # Errors
    /// When the corpus cannot be opened, the context does not fit the model, or BOS is asked of a model without one.
    pub fn new(model: Arc<LanguageModel>, config: &BlockConfig) -> Result<Self, ActivationsError> {
        let tokenizer = model.tokenizer()?;
        let n_ctx = model.config().n_ctx;
        if config.context < 2 || config.context > n_ctx {
            return Err(ActivationsError::Context {
                context: config.context,
                n_ctx,
            });
        }
        let bos = match (config.prepend_bos, tokenizer.bos()) {
            (true, None) => {
                return Err(ActivationsError::NoBos {
                    model: model.name().into(),
                });
            }
            (true, bos) => bos,
            (false, _) => None,
        };
        let separator = tokenizer.eos().or(tokenizer.bos());
        let corpus = Corpus::open(&config.corpus)?;
        let documents = corpus.documents();
        let config = config.clone();
        let current = (vec![], 0, 0);
        Ok(Self {
            model,
            config,
            corpus,
            documents,
            ready: VecDeque::new(),
            current,
            next_document: 0,
            bos,
            separator,
            digest: DIGEST.0,
        })
    }

    /// The model whose tokens these are.
    pub fn model(&self) -> &Arc<LanguageModel> {
        &self.model
    }

    /// What the blocks are cut from, and how.
    pub fn config(&self) -> &BlockConfig {
        &self.config
    }

    /// Whether a token is special: the activations at it are left out of training and statistics.
    pub fn is_special(&self, token: u32) -> bool {
        let config = self.model.config();
        Some(token) == config.bos || Some(token) == config.eos
    }

    /// Starts again at the corpus's first document.
    pub fn rewind(&mut self) {
        self.documents = self.corpus.documents();
        self.ready.clear();
        self.current = (vec![], 0, 0);
        self.next_document = 0;
        self.digest = DIGEST.0;
    }

    /// A digest of the tokens of every block since the corpus's beginning: two streams that gave the same blocks have
    /// the same one.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Leaves out the next `n` blocks, or as many as there are, and says how many.
    ///
    /// # Errors
    /// When the corpus cannot be read.
    pub fn skip_blocks(&mut self, n: u64) -> Result<u64, ActivationsError> {
        for skipped in 0..n {
            match self.next() {
                Some(block) => drop(block?),
                None => return Ok(skipped),
            }
        }
        Ok(n)
    }

    /// Makes `current` a document with tokens left; false at the corpus's end.
    fn advance(&mut self) -> Result<bool, ActivationsError> {
        while self.current.1 == self.current.0.len() {
            if self.ready.is_empty() {
                let texts: Vec<String> = self
                    .documents
                    .by_ref()
                    .take(DOCUMENTS)
                    .collect::<Result<_, _>>()?;
                if texts.is_empty() {
                    return Ok(false);
                }
                let tokenizer = self.model.tokenizer()?;
                self.ready
                    .extend(tokenizer.encode_batch(texts.iter().map(String::as_str).collect())?);
            }
            let mut tokens = self.ready.pop_front().expect("just filled");
            // A text may bring these tokens itself: neither is doubled.
            if let Some(bos) = self.bos {
                let own = tokens.iter().take_while(|token| **token == bos).count();
                tokens.drain(..own);
            }
            if !tokens.is_empty() && tokens.last().copied() != self.separator {
                tokens.extend(self.separator);
            }
            self.current = (tokens, 0, self.next_document);
            self.next_document += 1;
        }
        Ok(true)
    }

    fn block(&mut self) -> Result<Option<TokenBlock>, ActivationsError> {
        let mut block = TokenBlock {
            tokens: Vec::with_capacity(self.config.context),
            segments: vec![],
        };
        block.tokens.extend(self.bos);
        while block.tokens.len() < self.config.context {
            if !self.advance()? {
                return Ok(None);
            }
            let (tokens, used, document) = &mut self.current;
            let nothing_yet = block.segments.is_empty();
            if nothing_yet && *used + 1 == tokens.len() && Some(tokens[*used]) == self.separator {
                *used += 1; // It would separate nothing, and double a BOS that is the same token.
                continue;
            }
            let n = (self.config.context - block.tokens.len()).min(tokens.len() - *used);
            block.segments.push(Segment {
                start: block.tokens.len(),
                document: *document,
                offset: *used as u32,
            });
            block.tokens.extend_from_slice(&tokens[*used..*used + n]);
            *used += n;
        }
        for token in &block.tokens {
            self.digest = (self.digest ^ u64::from(*token)).wrapping_mul(DIGEST.1);
        }
        Ok(Some(block))
    }
}

impl Iterator for BlockStream {
    type Item = Result<TokenBlock, ActivationsError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.block().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use std::path::Path;

    fn blocks(model: &Arc<LanguageModel>, folder: &Path, texts: &[&str]) -> Vec<TokenBlock> {
        let lines: Vec<String> = texts
            .iter()
            .map(|text| serde_json::json!({ "text": text }).to_string())
            .collect();
        let corpus = folder.join("corpus.jsonl");
        std::fs::write(&corpus, lines.join("\n")).unwrap();
        let config = BlockConfig {
            corpus: corpus.to_str().unwrap().into(),
            context: 4,
            prepend_bos: true,
        };
        let blocks = BlockStream::new(model.clone(), &config).unwrap();
        blocks.map(Result::unwrap).collect()
    }

    const TEXT: &str = "We, the people of the United States, in order to form a more perfect Union";

    #[test]
    fn a_text_that_begins_with_bos_or_ends_with_eos_gets_no_second() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let plain = blocks(&model, folder.path(), &[TEXT, TEXT]);
        let marked = format!("<|endoftext|>{TEXT}<|endoftext|>");
        assert!(plain == blocks(&model, folder.path(), &[&marked, &marked]));
        assert!(plain.len() > 4);
    }

    #[test]
    fn no_block_has_two_bos_in_a_row() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        // Documents of every length, so that some end with a block.
        let texts: Vec<String> = (1..40).map(|n| " the".repeat(n)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let blocks = blocks(&model, folder.path(), &texts);
        let bos = model.config().bos.unwrap();
        assert!(
            blocks
                .iter()
                .all(|b| b.tokens[0] == bos && b.tokens[1] != bos)
        );
        let words: usize = blocks
            .iter()
            .flat_map(|b| &b.tokens)
            .filter(|t| **t != bos)
            .count();
        assert!(words + 3 > (1..40).sum(), "{words} words came through");
    }

    #[test]
    fn a_tokenizer_that_adds_bos_itself_adds_none_here() {
        let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/embedded");
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(embedded.join(file), folder.path().join(file)).unwrap();
        }
        let json = std::fs::read_to_string(embedded.join("tokenizer.json")).unwrap();
        let mut tokenizer: serde_json::Value = serde_json::from_str(&json).unwrap();
        let bos = "<|endoftext|>";
        tokenizer["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { bos: { "id": bos, "ids": [0], "tokens": [bos] } }
        });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let load = |source: &str| Arc::new(LanguageModel::load(source, &Device::flex()).unwrap());
        let (plain, adding) = (load("embedded"), load(folder.path().to_str().unwrap()));
        let texts = [TEXT, TEXT];
        assert!(blocks(&plain, folder.path(), &texts) == blocks(&adding, folder.path(), &texts));
    }
}
