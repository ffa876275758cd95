//! Token blocks: documents tokenized, joined, and cut to one length. What attention may see as one
//! is a sequence: each document's stretch of a block, or the whole block where documents attend to
//! one another. A sequence begins with BOS where asked, once; documents are separated by the
//! end-of-sequence token, which never begins a block and is left out where it is the BOS that
//! follows; a text that begins with BOS or ends with EOS itself gets no second one; nothing of the
//! last, incomplete block is padded, it is left out.

use crate::{ActivationsError, Corpus, Documents, SkippedRows, TokenPieces};
use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_model::LanguageModel;
use std::collections::VecDeque;
use std::sync::Arc;

/// Documents tokenized at once, in parallel, and bytes of their texts.
const DOCUMENTS: usize = 16;
const BYTES: usize = 1 << 20;

/// What to cut blocks from, and how.
#[derive(Debug, Clone)]
pub struct BlockConfig {
    /// A corpus as [`Corpus::open`] takes it.
    pub corpus: String,
    /// The field of JSON lines, or the column of Parquet, that holds the text.
    pub text_field: String,
    /// Tokens in a block, BOS included.
    pub context: usize,
    /// Whether each sequence begins with the beginning-of-sequence token.
    pub prepend_bos: bool,
    /// Whether a block is one sequence, so that a document's tokens see those of the documents
    /// before it. Otherwise each document in a block is a sequence of its own.
    pub attend_across_documents: bool,
}

/// A sequence of tokens of fixed length.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBlock {
    /// Token ids, BOS included.
    pub tokens: Vec<u32>,
    /// The documents in the block, in order.
    pub segments: Vec<Segment>,
    /// Whether they make one sequence.
    pub attend_across_documents: bool,
}

/// A stretch of one document in a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// Where in the block it begins.
    pub start: usize,
    /// Whether a BOS that is not the document's own comes first.
    pub bos: bool,
    /// Which row of the corpus, counted from 0 ([`crate::Document::number`]).
    pub document: u32,
    /// How many tokens of the document come before it.
    pub offset: u32,
}

impl TokenBlock {
    /// Each segment with the number of its tokens.
    fn stretches(&self) -> impl Iterator<Item = (&Segment, usize)> {
        let ends = self.segments.iter().skip(1).map(|next| next.start);
        let ends = ends.chain([self.tokens.len()]);
        self.segments
            .iter()
            .zip(ends)
            .map(|(segment, end)| (segment, end - segment.start))
    }

    /// For each token, its document and its position in it; BOS shares those of the token after it.
    pub fn places(&self) -> Vec<(u32, u32)> {
        let place = |(segment, n): (&Segment, usize)| {
            let (document, offset, bos) = (segment.document, segment.offset, segment.bos);
            (0..n as u32).map(move |i| (document, offset + i.saturating_sub(u32::from(bos))))
        };
        self.stretches().flat_map(place).collect()
    }

    /// Whether the block is more than one sequence.
    fn is_packed(&self) -> bool {
        !self.attend_across_documents && self.segments.len() > 1
    }

    /// For each token, its position in its sequence.
    pub fn positions(&self) -> Vec<usize> {
        match self.is_packed() {
            true => self.stretches().flat_map(|(_, n)| 0..n).collect(),
            false => (0..self.tokens.len()).collect(),
        }
    }

    /// For each token, the number of its sequence, counted from 0.
    pub fn sequences(&self) -> Vec<i32> {
        match self.is_packed() {
            true => {
                let numbered = self.stretches().zip(0..);
                numbered
                    .flat_map(|((_, n), i)| std::iter::repeat_n(i, n))
                    .collect()
            }
            false => vec![0; self.tokens.len()],
        }
    }

    /// What [`lapidary_model::HookedRun::segments`] takes for blocks of one length,
    /// `[blocks, context]`: nothing where each block is one sequence, which a model runs faster.
    pub fn attention(blocks: &[Self], device: &Device) -> Option<Tensor<2, Int>> {
        if !blocks.iter().any(Self::is_packed) {
            return None;
        }
        let numbers: Vec<i32> = blocks.iter().flat_map(Self::sequences).collect();
        let shape = [blocks.len(), numbers.len() / blocks.len()];
        Some(Tensor::from_data(TensorData::new(numbers, shape), device))
    }
}

/// Whether each token's prediction counts: it does where the token does, unless another document's
/// text comes next that the token's own has nothing to do with. An end or beginning of sequence it
/// does predict.
#[must_use]
pub fn predicts(blocks: &[TokenBlock], counts: &[bool], special: &[u32]) -> Vec<bool> {
    let mut predicts = counts.to_vec();
    let mut i = 0;
    for block in blocks {
        for (pair, next) in block.sequences().windows(2).zip(&block.tokens[1..]) {
            predicts[i] &= pair[0] == pair[1] || special.contains(next);
            i += 1;
        }
        i += 1;
    }
    predicts
}

/// An iterator over a corpus's blocks.
pub struct BlockStream {
    model: Arc<LanguageModel>,
    config: BlockConfig,
    corpus: Corpus,
    documents: Documents,
    ready: VecDeque<(u32, Tokens)>,
    current: Current,
    bos: Option<u32>,
    separator: Option<u32>,
    /// Blocks that were read and not yet given.
    ahead: VecDeque<TokenBlock>,
    /// Blocks given since the corpus's beginning.
    given: u64,
    digest: u64,
}

/// A document's tokens.
enum Tokens {
    All(Vec<u32>),
    /// A long text is tokenized piece by piece.
    Pieces(Box<TokenPieces>),
}

/// The document being cut.
#[derive(Default)]
struct Current {
    document: u32,
    /// Tokens at hand, and how many of them were used.
    tokens: Vec<u32>,
    used: usize,
    /// Tokens of the document before those at hand.
    before: u32,
    /// The last of those.
    last: Option<u32>,
    /// What is to come.
    rest: Option<Box<TokenPieces>>,
}

/// Where a digest of tokens begins, and what it is multiplied with at each: FNV-1a over whole token
/// ids.
const DIGEST: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0100_0000_01b3);

impl BlockStream {
    /// Opens a corpus for a model.
    ///
    /// # Errors
    /// When the corpus cannot be opened, the context does not fit the model, or BOS is asked of a
    /// model without one.
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
        // Where every document begins with BOS, an end of sequence that is the same token would
        // double it.
        let every_document = bos.filter(|_| !config.attend_across_documents);
        let separator = tokenizer.eos().or(tokenizer.bos());
        let separator = separator.filter(|s| Some(*s) != every_document);
        let corpus = Corpus::open(&config.corpus, &config.text_field)?;
        let documents = corpus.documents();
        let config = config.clone();
        Ok(Self {
            model,
            config,
            corpus,
            documents,
            ready: VecDeque::new(),
            current: Current::default(),
            bos,
            separator,
            ahead: VecDeque::new(),
            given: 0,
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
        self.model.is_special(token)
    }

    /// The rows of the corpus that had no text, as far as it was read.
    pub fn skipped_rows(&self) -> SkippedRows {
        self.corpus.skipped_rows()
    }

    /// The next `n` blocks, or as many as there are. They are still given later, without being read
    /// again.
    ///
    /// # Errors
    /// When the corpus cannot be read.
    pub fn read_ahead(&mut self, n: usize) -> Result<&[TokenBlock], ActivationsError> {
        while self.ahead.len() < n {
            match self.cut()? {
                Some(block) => self.ahead.push_back(block),
                None => break,
            }
        }
        let blocks = self.ahead.make_contiguous();
        Ok(&blocks[..n.min(blocks.len())])
    }

    /// Starts again at the corpus's first document. Nothing is read again where no block was given
    /// yet.
    pub fn rewind(&mut self) {
        if self.given == 0 {
            return;
        }
        self.documents = self.corpus.documents();
        self.ready.clear();
        self.current = Current::default();
        self.ahead.clear();
        self.given = 0;
        self.digest = DIGEST.0;
    }

    /// The next block, from the corpus's beginning again where it has ended: `read` blocks of this
    /// pass, and `passes` finished.
    ///
    /// # Errors
    ///
    /// If the corpus cannot be read, or has no block at all.
    pub(crate) fn next_in_passes(
        &mut self,
        read: &mut u64,
        passes: &mut u64,
    ) -> Result<TokenBlock, ActivationsError> {
        loop {
            if let Some(block) = self.block()? {
                *read += 1;
                return Ok(block);
            }
            if *read == 0 {
                return Err(ActivationsError::TooShort {
                    corpus: self.config().corpus.clone(),
                    found: 0,
                    context: self.config().context,
                    needed: 1,
                });
            }
            self.rewind();
            *read = 0;
            *passes += 1;
        }
    }

    /// A digest of the tokens of every block given since the corpus's beginning: two streams that
    /// gave the same blocks have the same one.
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

    /// Makes `current` a document with tokens left, a block's worth or all that there are; false at
    /// the corpus's end.
    fn advance(&mut self) -> Result<bool, ActivationsError> {
        loop {
            let left = self.current.tokens.len() - self.current.used;
            let ends = self.current.rest.is_none();
            if left > 0 && (ends || left >= self.config.context) {
                return Ok(true);
            }
            if ends && self.ready.is_empty() && !self.tokenize()? {
                return Ok(false);
            }
            let current = &mut self.current;
            if let Some(pieces) = &mut current.rest {
                let piece = pieces.next_piece(self.model.tokenizer()?)?;
                current.last = current.tokens.last().copied().or(current.last);
                current.tokens.drain(..current.used);
                current.before = current.before.saturating_add(current.used as u32);
                current.used = 0;
                match piece {
                    Some(piece) => current.tokens.extend(piece),
                    None => current.rest = None,
                }
            } else {
                let (document, tokens) = self.ready.pop_front().expect("just filled");
                let (tokens, rest) = match tokens {
                    Tokens::All(tokens) => (tokens, None),
                    Tokens::Pieces(pieces) => (vec![], Some(pieces)),
                };
                *current = Current {
                    document,
                    tokens,
                    rest,
                    ..Current::default()
                };
            }
            // A text may bring these tokens itself: neither is doubled.
            if let Some(bos) = self.bos {
                if current.before == 0 && current.last.is_none() {
                    let own = current.tokens.iter().take_while(|t| **t == bos).count();
                    current.tokens.drain(..own);
                }
                let ends = self.separator.is_none() && current.rest.is_none();
                while ends && current.tokens.last() == Some(&bos) {
                    current.tokens.pop();
                }
            }
            if current.rest.is_none() {
                let last = current.tokens.last().copied().or(current.last);
                if last.is_some() && last != self.separator {
                    current.tokens.extend(self.separator);
                }
            }
        }
    }

    /// Fills `ready` with the next documents; false if there are none.
    fn tokenize(&mut self) -> Result<bool, ActivationsError> {
        let (mut numbers, mut texts, mut bytes) = (vec![], vec![], 0);
        let mut long = None;
        while texts.len() < DOCUMENTS && bytes < BYTES {
            let Some(document) = self.documents.next().transpose()? else {
                break;
            };
            let number = u32::try_from(document.number).unwrap_or(u32::MAX);
            if !TokenPieces::is_short(&document.text) {
                let pieces = Box::new(TokenPieces::new(document.text));
                long = Some((number, Tokens::Pieces(pieces)));
                break;
            }
            bytes += document.text.len();
            numbers.push(number);
            texts.push(document.text);
        }
        let tokenizer = self.model.tokenizer()?;
        let tokens = tokenizer.encode_batch(texts.iter().map(String::as_str).collect())?;
        let tokens = tokens.into_iter().map(Tokens::All);
        self.ready.extend(numbers.into_iter().zip(tokens));
        self.ready.extend(long);
        Ok(!self.ready.is_empty())
    }

    /// The next block: one that was read ahead, or the next of the corpus.
    fn block(&mut self) -> Result<Option<TokenBlock>, ActivationsError> {
        let block = match self.ahead.pop_front() {
            Some(block) => Some(block),
            None => self.cut()?,
        };
        if let Some(block) = &block {
            self.given += 1;
            for token in &block.tokens {
                self.digest = (self.digest ^ u64::from(*token)).wrapping_mul(DIGEST.1);
            }
        }
        Ok(block)
    }

    /// Cuts the next block from the corpus.
    fn cut(&mut self) -> Result<Option<TokenBlock>, ActivationsError> {
        let mut block = TokenBlock {
            tokens: Vec::with_capacity(self.config.context),
            segments: vec![],
            attend_across_documents: self.config.attend_across_documents,
        };
        while block.tokens.len() < self.config.context {
            if !self.advance()? {
                return Ok(None);
            }
            let Current {
                tokens,
                used,
                document,
                before,
                ..
            } = &mut self.current;
            let nothing_yet = block.segments.is_empty();
            if nothing_yet && *used + 1 == tokens.len() && Some(tokens[*used]) == self.separator {
                *used += 1; // It would separate nothing, and double a BOS that is the same token.
                continue;
            }
            let start = block.tokens.len();
            let begins = nothing_yet || !self.config.attend_across_documents;
            let bos = self.bos.filter(|_| begins);
            block.tokens.extend(bos);
            let n = (self.config.context - block.tokens.len()).min(tokens.len() - *used);
            block.segments.push(Segment {
                start,
                bos: bos.is_some(),
                document: *document,
                offset: before.saturating_add(*used as u32),
            });
            block.tokens.extend_from_slice(&tokens[*used..*used + n]);
            *used += n;
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
        let cut = |across| cut(model, folder, texts, across);
        let (apart, across) = (cut(false), cut(true));
        // Where BOS is the separator too, the tokens are the same.
        assert!(apart.iter().zip(&across).all(|(a, b)| a.tokens == b.tokens));
        apart
    }

    fn stream(
        model: &Arc<LanguageModel>,
        folder: &Path,
        texts: &[&str],
        attend_across_documents: bool,
    ) -> BlockStream {
        let lines: Vec<String> = texts
            .iter()
            .map(|text| serde_json::json!({ "text": text }).to_string())
            .collect();
        let corpus = folder.join("corpus.jsonl");
        std::fs::write(&corpus, lines.join("\n")).unwrap();
        let config = BlockConfig {
            corpus: corpus.to_str().unwrap().into(),
            text_field: "text".into(),
            context: 4,
            prepend_bos: true,
            attend_across_documents,
        };
        BlockStream::new(model.clone(), &config).unwrap()
    }

    fn cut(
        model: &Arc<LanguageModel>,
        folder: &Path,
        texts: &[&str],
        attend_across_documents: bool,
    ) -> Vec<TokenBlock> {
        let blocks = stream(model, folder, texts, attend_across_documents);
        blocks.map(Result::unwrap).collect()
    }

    #[test]
    fn passes_follow_one_another_and_a_corpus_without_blocks_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let texts = ["one two three four five six", "seven eight nine ten eleven"];
        let whole = cut(&model, folder.path(), &texts, false);
        let mut again = stream(&model, folder.path(), &texts, false);
        let (mut read, mut passes) = (0, 0);
        for at in 0..2 * whole.len() + 1 {
            let block = again.next_in_passes(&mut read, &mut passes).unwrap();
            assert_eq!(block.tokens, whole[at % whole.len()].tokens);
            let expected = (at % whole.len() + 1, at / whole.len());
            assert_eq!((read as usize, passes as usize), expected);
        }
        let mut short = stream(&model, folder.path(), &["a"], false);
        let error = short.next_in_passes(&mut 0, &mut 0).unwrap_err();
        assert!(
            matches!(error, ActivationsError::TooShort { needed: 1, .. }),
            "{error}"
        );
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
    fn each_document_in_a_block_is_a_sequence_with_a_bos_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let texts: Vec<String> = (0..30).map(|n| " the".repeat(1 + n % 3)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let bos = model.config().bos.unwrap();
        let apart = cut(&model, folder.path(), &texts, false);
        for block in &apart {
            let (sequences, positions) = (block.sequences(), block.positions());
            let places = block.places();
            for i in 0..4 {
                assert_eq!(block.tokens[i] == bos, positions[i] == 0, "{block:?}");
                let begins = i == 0 || sequences[i] != sequences[i - 1];
                assert_eq!(begins, positions[i] == 0, "{block:?}");
                assert_eq!(i > 0 && places[i].0 != places[i - 1].0, begins && i > 0);
                if !begins {
                    // BOS shares the place of the token after it.
                    let expected = places[i - 1].1 + u32::from(positions[i] > 1);
                    assert_eq!(places[i].1, expected, "{block:?}");
                }
            }
        }
        assert!(apart.iter().any(|b| b.sequences().contains(&1)));
        assert!(TokenBlock::attention(&apart, &Device::flex()).is_some());
        let across = cut(&model, folder.path(), &texts, true);
        assert!(TokenBlock::attention(&across, &Device::flex()).is_none());
        assert!(across.iter().all(|b| b.positions() == [0, 1, 2, 3]));
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

    #[test]
    fn the_last_token_of_a_document_predicts_nothing_of_the_next_but_its_special_token() {
        // Two documents side by side, then one that begins with a special token; special tokens do
        // not count themselves.
        const SPECIAL: u32 = 9;
        let begins = |start: usize, bos| Segment {
            start,
            bos,
            document: start as u32,
            offset: 0,
        };
        let block = TokenBlock {
            tokens: vec![1, 2, 3, 4, SPECIAL, 5],
            segments: vec![begins(0, false), begins(2, false), begins(4, true)],
            attend_across_documents: false,
        };
        let counts = [true, true, true, true, false, true];
        let found = predicts(&[block.clone(), block], &counts.repeat(2), &[SPECIAL]);
        let expected = [true, false, true, true, false, true];
        assert_eq!(found, expected.repeat(2));
    }
    #[test]
    fn a_long_document_is_cut_into_the_blocks_of_its_whole_text() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let speeches = Corpus::open("embedded", "text").unwrap().documents();
        let speeches: Vec<String> = speeches.take(20).map(|d| d.unwrap().text).collect();
        let long = speeches.concat().replace('\n', " ");
        assert!(long.len() > 2 << 17, "it takes several windows");
        let texts = [TEXT, &long, TEXT, &long[..1 << 18]];
        for across in [false, true] {
            let found = cut(&model, folder.path(), &texts, across);
            // The same by the whole texts' tokens, joined by the token that begins and separates.
            let tokenizer = model.tokenizer().unwrap();
            let bos = model.config().bos.unwrap();
            let of = |n: usize| tokenizer.encode(texts[n]).unwrap();
            let mut places: Vec<(u32, u32, u32)> = vec![];
            for n in 0..4 {
                places.extend(
                    of(n)
                        .iter()
                        .zip(0..)
                        .map(|(token, at)| (*token, n as u32, at)),
                );
            }
            let kept = found
                .iter()
                .flat_map(|block| block.tokens.iter().zip(block.places()));
            let kept = kept.filter(|(token, _)| **token != bos);
            let kept: Vec<(u32, u32, u32)> = kept.map(|(t, (d, p))| (*t, d, p)).collect();
            assert!(places.len() - kept.len() < 4, "all but the last block");
            assert!(kept == places[..kept.len()]);
            let segments = found.iter().map(|b| b.segments.len()).sum::<usize>();
            assert!(
                segments <= found.len() + 3,
                "no block is cut within a document"
            );
        }
    }

    #[test]
    fn a_segment_is_of_the_row_that_its_text_stands_in() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let corpus = folder.path().join("corpus.jsonl");
        let line = |text: Option<&str>| serde_json::json!({ "text": text }).to_string() + "\n";
        let lines = [Some(TEXT), None, Some(TEXT), Some(""), None, Some(TEXT)];
        std::fs::write(&corpus, lines.map(line).concat()).unwrap();
        let config = BlockConfig {
            corpus: corpus.to_str().unwrap().into(),
            text_field: "text".into(),
            context: 4,
            prepend_bos: true,
            attend_across_documents: false,
        };
        let mut stream = BlockStream::new(model, &config).unwrap();
        for _ in 0..2 {
            let segments = stream.by_ref().flat_map(|block| block.unwrap().segments);
            let mut documents: Vec<u32> = segments.map(|segment| segment.document).collect();
            documents.dedup();
            assert_eq!(documents, [0, 2, 5]);
            assert_eq!(stream.skipped_rows().count(), 2);
            stream.rewind();
        }
    }

    #[test]
    fn blocks_read_ahead_are_given_later_without_another_look_at_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap());
        let open = || stream(&model, folder.path(), &[TEXT, TEXT, TEXT], false);
        let mut plain = open();
        let all: Vec<TokenBlock> = plain.by_ref().map(Result::unwrap).collect();
        let mut stream = open();
        assert_eq!(stream.read_ahead(2).unwrap(), &all[..2]);
        assert_eq!(stream.digest(), open().digest());
        assert_eq!(stream.read_ahead(1).unwrap(), &all[..1]);
        assert_eq!(stream.next().unwrap().unwrap(), all[0]);
        assert_eq!(stream.read_ahead(all.len()).unwrap(), &all[1..]);
        let rest: Vec<TokenBlock> = stream.by_ref().map(Result::unwrap).collect();
        assert_eq!(rest, all[1..]);
        assert_eq!(stream.digest(), plain.digest());
        stream.rewind();
        assert_eq!(stream.read_ahead(3).unwrap(), &all[..3]);
        // What was read before any block was given is not read again.
        std::fs::remove_file(folder.path().join("corpus.jsonl")).unwrap();
        stream.rewind();
        assert!(stream.take(3).map(Result::unwrap).eq(all[..3].to_vec()));
    }
}
