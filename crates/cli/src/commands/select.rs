//! `lapidary select`.

use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use lapidary::{SelectOptions, TextOptions, select};
use lapidary_features::selection::{Similarity, TopShare};
use lapidary_features::write_ranking;
use lapidary_io::{check_target, write_atomically};
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Rank documents by how similar their codes are to those of a few examples
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary select --dictionary out --pool pool.jsonl --examples wanted.jsonl --top 5% --out ranked.parquet
  lapidary select --dictionary out --pool hf:OWNER/NAME --examples wanted.txt --top 1000 --out ranked.parquet --ids chosen.txt

A document is represented by the mean of its codes over all tokens except special tokens. The examples together are represented by the
mean of their representations. Each document of the pool is compared with this mean.
Jaccard similarity of a and b: sum of min(a_i, b_i) / sum of max(a_i, b_i) over latents i.

The output has one row per document of the pool, sorted by rank. Columns: document (its number in the pool, from 0), score, rank (from
0), selected. Documents without a token are left out.")]
pub struct Select {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(long, value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Documents to choose from: `embedded`, a file, a folder, or hf:OWNER/NAME (a dataset on the
    /// Hugging Face hub)
    #[arg(long, value_name = "TEXTS")]
    pool: String,
    /// Documents that are examples of what to select, with the same possible values as --pool
    #[arg(long, value_name = "TEXTS")]
    examples: String,
    /// JSON field or Parquet column that holds the text, in --pool and --examples; default: the
    /// field in the dictionary's recipe, or `text` if there is no recipe
    #[arg(long, value_name = "NAME")]
    text_field: Option<String>,
    /// Documents to select: a share such as 5%, or a number
    #[arg(long, value_name = "N|P%", default_value = "5%")]
    top: TopShare,
    /// Similarity of two documents
    #[arg(long, value_name = "WHAT", default_value = "jaccard")]
    similarity: By,
    /// Parquet file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Also write the numbers of the selected documents to this file, one per line, the most
    /// similar document first
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    /// Generalized Jaccard similarity
    Jaccard,
    /// Cosine
    Cosine,
}

impl Select {
    pub fn run(self) -> Result<()> {
        for path in [Some(&self.out), self.ids.as_ref()].into_iter().flatten() {
            check_target(path)?;
        }
        if self.ids.as_ref() == Some(&self.out) {
            bail!("--ids: found the file of --out, expected another one");
        }
        let device = self.device.open()?;
        let model = self.model.as_deref();
        let opened = self
            .from
            .open_with_model(&self.dictionary, model, &device)?;
        let options = SelectOptions {
            pool: self.pool,
            examples: self.examples,
            text: TextOptions {
                text_field: self.text_field,
                ..TextOptions::default()
            },
            similarity: match self.similarity {
                By::Jaccard => Similarity::Jaccard,
                By::Cosine => Similarity::Cosine,
            },
            top: self.top,
        };
        let selection = select(&opened, &options, &Watched)?;
        write_ranking(&self.out, &selection.rows, &selection.source)?;
        let chosen = selection.rows.iter().filter(|row| row.selected);
        if let Some(path) = &self.ids {
            let ids: String = chosen
                .clone()
                .map(|row| format!("{}\n", row.document))
                .collect();
            write_atomically(path, ids.as_bytes())?;
        }
        let number = chosen.clone().count();
        let least = chosen.map(|row| row.score).fold(f64::INFINITY, f64::min);
        writeln!(
            stdout(),
            "{number} of {} documents selected, with scores of {least:.4} or more ({} examples)",
            selection.rows.len(),
            selection.examples
        )?;
        Ok(())
    }
}
