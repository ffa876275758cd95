//! The texts of a run. Each is opened once, and what the first batch, the training, evaluations and
//! tables have in common of it is read and tokenized once.

use crate::error::{Result, bail};
use crate::opened::blocks_of;
use crate::progress::Progress;
use lapidary_activations::{BlockConfig, BlockStream, SkippedRows, TokenBlock};
use lapidary_model::LanguageModel;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The training text and the texts to evaluate on, cut into blocks in the same way.
pub(crate) struct Texts {
    model: Arc<LanguageModel>,
    /// How the training text is cut.
    config: BlockConfig,
    opened: BTreeMap<String, Text>,
}

/// A text that is open.
struct Text {
    blocks: Blocks,
    /// Blocks at its beginning that evaluations and tables will read.
    wanted: usize,
    skipped: SkippedRows,
}

/// Where the blocks of a text are.
enum Blocks {
    /// All are still to come.
    Stream(Box<BlockStream>),
    /// The training has the stream; these are the first ones, as many as were wanted.
    First(Vec<TokenBlock>),
}

impl Texts {
    /// No text yet. `config` is of the training text.
    pub(crate) fn new(model: Arc<LanguageModel>, config: BlockConfig) -> Self {
        Self {
            model,
            config,
            opened: BTreeMap::new(),
        }
    }

    /// Opens a text, unless it is open, and notes that an evaluation or tables will read `tokens`
    /// of it.
    ///
    /// # Errors
    /// There is no such text, or it does not fit the model.
    pub(crate) fn open(&mut self, corpus: &str, tokens: u64) -> Result<()> {
        if !self.opened.contains_key(corpus) {
            let config = BlockConfig {
                corpus: corpus.to_owned(),
                ..self.config.clone()
            };
            let stream = BlockStream::new(self.model.clone(), &config)?;
            let text = Text {
                skipped: stream.skipped_rows(),
                blocks: Blocks::Stream(Box::new(stream)),
                wanted: 0,
            };
            self.opened.insert(corpus.to_owned(), text);
        }
        if let Some(text) = self.opened.get_mut(corpus).filter(|_| tokens > 0) {
            text.wanted = text.wanted.max(blocks_of(tokens, self.config.context));
        }
        Ok(())
    }

    /// The training text from its beginning. The blocks that evaluations and tables will read are
    /// read now and kept.
    ///
    /// # Errors
    /// The text cannot be read.
    pub(crate) fn training_stream(&mut self) -> Result<BlockStream> {
        let corpus = self.config.corpus.clone();
        self.open(&corpus, 0)?;
        match self.opened.remove(&corpus) {
            Some(Text {
                blocks: Blocks::Stream(mut stream),
                wanted,
                skipped,
            }) => {
                let blocks = Blocks::First(stream.read_ahead(wanted)?.to_vec());
                let text = Text {
                    blocks,
                    wanted,
                    skipped,
                };
                self.opened.insert(corpus, text);
                Ok(*stream)
            }
            _ => bail!("corpus {corpus} is given to one training only"),
        }
    }

    /// Reads what evaluations and tables want, unless it was kept, and says how many rows had no
    /// text.
    ///
    /// # Errors
    /// A text cannot be read.
    pub(crate) fn read(self, progress: &dyn Progress) -> Result<FirstBlocks> {
        let mut blocks = BTreeMap::new();
        for (corpus, text) in self.opened {
            let first = match text.blocks {
                Blocks::Stream(mut stream) => stream.read_ahead(text.wanted)?.to_vec(),
                Blocks::First(first) => first,
            };
            if let Some(note) = text.skipped.note() {
                progress.say("note", &note);
            }
            blocks.insert(corpus, first);
        }
        Ok(FirstBlocks {
            context: self.config.context,
            blocks,
        })
    }
}

/// The blocks that evaluations and tables read, by the names of their texts.
pub(crate) struct FirstBlocks {
    context: usize,
    blocks: BTreeMap<String, Vec<TokenBlock>>,
}

impl FirstBlocks {
    /// As many whole blocks as fit in `tokens`, at least one; fewer if the text ends before.
    ///
    /// # Errors
    /// The text holds less than one block.
    pub(crate) fn of(&self, corpus: &str, tokens: u64) -> Result<&[TokenBlock]> {
        let context = self.context;
        let blocks = self.blocks.get(corpus).map_or(&[][..], Vec::as_slice);
        match blocks.len().min(blocks_of(tokens, context)) {
            0 => bail!("corpus {corpus} holds less than one block of {context} tokens"),
            n => Ok(&blocks[..n]),
        }
    }
}
