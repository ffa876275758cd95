//! `lapidary codebook find`.

use super::corpus::CorpusArgument;
use super::edits::check_outside;
use crate::arguments::DeviceArgument;
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::CodebookRun;
use lapidary::codebooks::{Find as Search, Predicate, find_codes, write_codes};
use lapidary_io::check_target;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Lines of the printed table.
const SHOWN: usize = 10;

/// Find the codes that are chosen at the positions of a text at which a predicate holds
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook find codes --predicate 'regex:(?i)\\b(war|army|navy)' --out codes.parquet
  lapidary codebook find codes --predicate 'next:\\.' --recall 0.5 --out codes.parquet
  lapidary codebook find codes --predicate topic:speeches-on-war.txt --out codes.parquet
  lapidary codebook find fsm --predicate regex:07 --out codes.parquet

Predicates:
  regex:PATTERN  holds at tokens that are part of a match of PATTERN, a regular expression of the Rust crate `regex`
  next:PATTERN   holds at tokens that come directly before such a token
  topic:FILE     holds at all tokens of the texts in FILE (JSON Lines, Parquet or plain text), and at no token of the corpus

N = positions at which the predicate holds, C = positions at which the code is chosen, B = positions at which both are true.
Precision = B / C. Recall = B / N. Special tokens are not counted.")]
pub struct Find {
    /// Folder of a finished run of `lapidary codebook train`
    run: PathBuf,
    /// The predicate: regex:PATTERN, next:PATTERN or topic:FILE
    #[arg(long)]
    predicate: Predicate,
    /// Parquet file for the codes. The code with the highest precision comes first
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Minimum recall of the codes in the file
    #[arg(long, default_value_t = 0.1)]
    recall: f64,
    #[command(flatten)]
    text: CorpusArgument,
    /// Number of tokens of the text. With topic:FILE, it is also the maximum number of tokens that
    /// are read from FILE
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    tokens: u64,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Find {
    pub fn run(self) -> Result<()> {
        check_target(&self.out)?;
        check_outside(&self.out, &self.run)?;
        if !(0.0..=1.0).contains(&self.recall) {
            bail!("--recall: found {}, expected 0 to 1", self.recall);
        }
        let run = CodebookRun::open(&self.run, &self.device.open()?)?;
        let text = self.text.read(&run, self.tokens)?;
        let search = Search {
            predicate: self.predicate,
            least_recall: self.recall,
            topic_tokens: self.tokens,
            topic_text: self.text.options(),
        };
        let found = find_codes(&run, &search, &text, &Watched)?;
        if found.is_empty() {
            bail!(
                "--recall {}: found no code with such a recall, expected a lower --recall",
                self.recall
            );
        }
        write_codes(&self.out, &found)?;
        let mut out = stdout();
        writeln!(
            out,
            "  LAYER.HEAD=CODE   precision   recall    count   hook point"
        )?;
        for code in found.iter().take(SHOWN) {
            let name = format!("{}.{}={}", code.layer, code.head, code.code);
            writeln!(
                out,
                "  {name:<15} {:>11.3} {:>8.3} {:>8}   {}",
                code.precision, code.recall, code.count, code.hook_point
            )?;
        }
        if found.len() > SHOWN {
            let more = found.len() - SHOWN;
            writeln!(out, "  and {more} more in {}", self.out.display())?;
        }
        Ok(())
    }
}
