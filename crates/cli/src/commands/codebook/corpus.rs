//! The text that the codes of a run are observed on.

use crate::arguments::TextArgument;
use crate::progress::Watched;
use anyhow::Result;
use clap::Args;
use lapidary::codebooks::RunText;
use lapidary::{CodebookRun, TextOptions};

/// Which text, and how it is read.
#[derive(Args)]
pub struct CorpusArgument {
    /// The text; default: the text that the run was trained on. For a TokFSM: held-out sequences
    #[arg(long)]
    corpus: Option<String>,
    #[command(flatten)]
    text: TextArgument,
}

impl CorpusArgument {
    pub fn options(&self) -> TextOptions {
        self.text.options()
    }

    /// The first tokens of the text, in blocks of the run's context.
    pub fn read(&self, run: &CodebookRun, tokens: u64) -> Result<RunText> {
        let corpus = self.corpus.as_deref();
        Ok(RunText::read(
            run,
            corpus,
            &self.options(),
            tokens,
            &Watched,
        )?)
    }
}
