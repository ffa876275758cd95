//! `lapidary circuit attention`: why a head attends where it does.

use super::prompt::{InLayer, Opened, PromptArgument};
use crate::commands::figures::number;
use crate::terminal::shown;
use anyhow::Result;
use clap::Args;
use lapidary_circuits::attribution_graph::{Node, ReplacementModel, ScoreAttribution, ScorePart};
use lapidary_io::{check_target, write_atomically};
use lapidary_model::Tokenizer;
use std::fmt::Write as _;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Split the attention score of a head, between a query and a key, into what features, errors and
/// tokens add to it
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary circuit attention --transcoders transcoders --head 1.2 --query 5 --key 2 --prompt 'The Congress of the United'
  lapidary circuit attention --transcoders transcoders --head 1.2 --query 5 --key 2 --prompt-file long.txt --top 50 --out score.json

Positions are counted from 0, including the beginning-of-sequence token. docs/methods/attribution-graphs.md defines the parts.")]
pub struct AttentionCommand {
    #[command(flatten)]
    prompt: PromptArgument,
    /// The attention head
    #[arg(long, value_name = "LAYER.HEAD")]
    head: InLayer,
    /// Position of the query
    #[arg(long, value_name = "N")]
    query: usize,
    /// Position of the key
    #[arg(long, value_name = "N")]
    key: usize,
    /// Number of parts to show in each list, the largest first
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    top: u32,
    /// JSON file for the score and its parts
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl AttentionCommand {
    pub fn run(self) -> Result<()> {
        if let Some(out) = &self.out {
            check_target(out)?;
        }
        let Opened {
            model,
            transcoders,
            tokens,
        } = self.prompt.open()?;
        let replacement = ReplacementModel::new(&model, transcoders)?;
        let places = [self.query, self.key];
        let found =
            replacement.score_attribution(&tokens, self.head.0, places, self.top as usize)?;
        let mut text = table(&found, model.tokenizer()?)?;
        if let Some(out) = &self.out {
            let json = serde_json::to_string_pretty(&found)?;
            write_atomically(out, json.as_bytes())?;
            writeln!(text, "{}", out.display())?;
        }
        write!(stdout(), "{}", shown(&text))?;
        Ok(())
    }
}

fn table(found: &ScoreAttribution, tokenizer: &Tokenizer) -> Result<String> {
    let mut text = format!("score {}\n", number(found.score.into()));
    let parts = |text: &mut String, title: &str, parts: &[ScorePart]| -> Result<()> {
        writeln!(text, "{title}")?;
        for part in parts {
            let name = name(part.source, tokenizer);
            writeln!(text, "  {:>+9.3}  {name}", part.contribution)?;
        }
        Ok(())
    };
    parts(&mut text, "through the query", &found.by_query)?;
    parts(&mut text, "through the key", &found.by_key)?;
    writeln!(text, "pairs, query and key")?;
    for pair in &found.pairs {
        let [query, key] = [pair.query, pair.key].map(|source| name(source, tokenizer));
        writeln!(text, "  {:>+9.3}  {query}  |  {key}", pair.contribution)?;
    }
    writeln!(text, "  {:>+9.3}  rest", found.rest)?;
    Ok(text)
}

fn name(source: Option<Node>, tokenizer: &Tokenizer) -> String {
    match source {
        None => "bias".into(),
        Some(Node::Feature(f)) => format!("feature {}.{} at {}", f.layer, f.index, f.position),
        Some(Node::Error { layer, position }) => format!("error {layer} at {position}"),
        Some(Node::Token { position, token }) => {
            format!("embedding of {position} {:?}", tokenizer.decode(&[token]))
        }
        Some(Node::Logit(_)) => unreachable!("a logit adds to nothing"),
    }
}
