//! The text that a model with codebooks is observed on, in blocks.

use super::CodebookRun;
use crate::error::{Result, bail};
use crate::opened::{TextOptions, blocks_of, read_blocks};
use crate::progress::Progress;
use burn::tensor::{Int, Tensor};
use lapidary_activations::{BlockConfig, Corpus, Segment, TEXT_FIELD, TokenBlock, TokenPieces};
use lapidary_codebook::{Data, DataOptions, Observed, TokFsm};

/// Blocks of one pass.
const BLOCKS_AT_ONCE: usize = 8;
/// Sequences of a TokFSM, at most: all are drawn at once.
const MOST_SEQUENCES: usize = 100_000;
/// How the beginning of a sequence of a TokFSM is shown among digits.
const BOS: char = '|';

/// Text in blocks, and how its tokens are shown.
pub struct RunText {
    /// The blocks.
    pub blocks: Vec<TokenBlock>,
    machine: Option<TokFsm>,
}

impl RunText {
    /// The first `tokens` tokens of a text, cut into blocks of the run's context: `corpus`, or the
    /// text that the run was trained on. For a TokFSM, held-out sequences.
    ///
    /// # Errors
    /// The text cannot be read, or holds less than one block; a corpus is given for a TokFSM.
    pub fn read(
        run: &CodebookRun,
        corpus: Option<&str>,
        text: &TextOptions,
        tokens: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let machine = run.machine()?;
        let blocks = match (&run.config.data, &machine) {
            (
                DataOptions::Text {
                    corpus: own,
                    context,
                    ..
                },
                _,
            ) => {
                let config = BlockConfig {
                    corpus: corpus.unwrap_or(own).to_owned(),
                    text_field: text
                        .text_field
                        .clone()
                        .unwrap_or_else(|| TEXT_FIELD.to_owned()),
                    context: *context,
                    prepend_bos: run.model.config().bos.is_some(),
                    attend_across_documents: text.attend_across_documents,
                };
                read_blocks(progress, &run.model, &config, tokens)?
            }
            (DataOptions::TokFsm(_), Some(fsm)) => {
                if let Some(corpus) = corpus {
                    bail!(
                        "--corpus {corpus}: found a model of a TokFSM in {}, expected one of text",
                        run.folder.display()
                    );
                }
                let sequences = blocks_of(tokens, fsm.length());
                if sequences > MOST_SEQUENCES {
                    bail!(
                        "--tokens: found {tokens}, expected at most {}, {MOST_SEQUENCES} sequences of the TokFSM",
                        MOST_SEQUENCES * fsm.length()
                    );
                }
                let batch = Data::TokFsm(fsm.clone()).held_out(run.config.seed, sequences);
                let sequences = batch.inputs.chunks(batch.length).enumerate();
                let block = |(number, tokens): (usize, &[i32])| TokenBlock {
                    tokens: tokens.iter().map(|t| *t as u32).collect(),
                    segments: vec![Segment {
                        start: 0,
                        bos: true,
                        document: number as u32,
                        offset: 0,
                    }],
                    attend_across_documents: false,
                };
                sequences.map(block).collect()
            }
            (DataOptions::TokFsm(_), None) => unreachable!("a TokFSM has a machine"),
        };
        Ok(Self { blocks, machine })
    }

    /// The first `tokens` tokens of the texts of a file. Each text is cut into sequences of the
    /// run's context; its last sequence may be shorter.
    ///
    /// # Errors
    /// The file cannot be read or has no text; the model is one of a TokFSM.
    pub fn of_topic(
        run: &CodebookRun,
        file: &str,
        text: &TextOptions,
        tokens: u64,
    ) -> Result<Self> {
        let DataOptions::Text { context, .. } = &run.config.data else {
            bail!(
                "--predicate topic:{file}: found a model of a TokFSM in {}, expected one of text",
                run.folder.display()
            );
        };
        let tokenizer = run.model.tokenizer()?;
        let field = text.text_field.as_deref().unwrap_or(TEXT_FIELD);
        let bos: Vec<u32> = run.model.config().bos.into_iter().collect();
        let room = (context - bos.len()) as u64;
        let (mut blocks, mut left) = (vec![], tokens);
        for document in Corpus::open(file, field)?.documents() {
            let document = document?;
            let mut pieces = TokenPieces::new(document.text);
            let mut ids = vec![];
            while (ids.len() as u64) < left
                && let Some(piece) = pieces.next_piece(tokenizer)?
            {
                ids.extend(piece);
            }
            ids.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= ids.len() as u64;
            for (i, some) in ids.chunks(room as usize).enumerate() {
                blocks.push(TokenBlock {
                    tokens: [&bos, some].concat(),
                    segments: vec![Segment {
                        start: 0,
                        bos: !bos.is_empty(),
                        document: document.number as u32,
                        offset: (i as u64 * room) as u32,
                    }],
                    attend_across_documents: false,
                });
            }
            if left == 0 {
                break;
            }
        }
        if blocks.is_empty() {
            bail!("{file}: found no text, expected the texts of a topic");
        }
        // Blocks of one length share a pass.
        blocks.sort_by_key(|block| block.tokens.len());
        Ok(Self {
            blocks,
            machine: None,
        })
    }

    /// The blocks in groups that share a forward pass.
    pub(super) fn passes(&self) -> impl Iterator<Item = &[TokenBlock]> {
        let same = |a: &TokenBlock, b: &TokenBlock| a.tokens.len() == b.tokens.len();
        let of_length = self.blocks.chunk_by(same);
        of_length.flat_map(|blocks| blocks.chunks(BLOCKS_AT_ONCE))
    }

    /// Whether a token counts: BOS and other special tokens do not.
    pub fn counts(&self, run: &CodebookRun, token: u32) -> bool {
        match &self.machine {
            Some(fsm) => token != fsm.bos(),
            None => !run.model.is_special(token),
        }
    }

    /// The codes that the model chooses on some blocks.
    ///
    /// # Errors
    /// The model fails.
    pub(super) fn observe(run: &CodebookRun, blocks: &[TokenBlock]) -> Result<Vec<Observed>> {
        let tokens: Vec<&[u32]> = blocks.iter().map(|b| b.tokens.as_slice()).collect();
        let tokens: Tensor<2, Int> = run.model.tokens(&tokens)?;
        let segments = TokenBlock::attention(blocks, run.model.device());
        Ok(run.codebooks.observe(&run.model, tokens, segments)?)
    }
}

impl CodebookRun {
    /// A stretch of tokens, one text each, that reads as the text does when they are put together.
    /// Tokens of a TokFSM are digits, and `|` for the beginning of a sequence.
    ///
    /// # Errors
    /// The model of a run on text has no tokenizer.
    pub fn texts(&self, tokens: &[u32]) -> Result<Vec<String>> {
        Ok(match self.machine()? {
            Some(fsm) => tokens.iter().map(|t| digit(&fsm, *t).to_string()).collect(),
            None => self.model.tokenizer()?.texts(tokens),
        })
    }

    /// The text of a token by itself.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn token_text(&self, token: u32) -> Result<String> {
        Ok(match self.machine()? {
            Some(fsm) => digit(&fsm, token).to_string(),
            None => self.model.tokenizer()?.token_text(token),
        })
    }
}

/// A token of a TokFSM as a character.
fn digit(fsm: &TokFsm, token: u32) -> char {
    match token == fsm.bos() {
        true => BOS,
        false => char::from_digit(token, 36).unwrap_or('?'),
    }
}
