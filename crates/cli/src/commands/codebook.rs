//! `lapidary codebook`: models with codebooks in them, what their codes stand for, and text with
//! codes set by hand.

mod corpus;
mod edits;
mod features;
mod find;
mod generate;
mod states;
mod steer;
mod train;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Codebooks: train a model whose activations are sums of a few codes, find what codes stand for,
/// and generate text with chosen codes
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook train configs/codebook/tokfsm-small.toml --out fsm
  lapidary codebook states fsm
  lapidary codebook find codes --predicate 'regex:(?i)\\bwar\\b' --out codes.parquet
  lapidary codebook features codes
  lapidary codebook generate fsm 0712 --set 0.1=17")]
pub struct CodebookArguments {
    #[command(subcommand)]
    command: CodebookCommand,
}

#[derive(Subcommand)]
enum CodebookCommand {
    Train(train::Train),
    States(states::States),
    Find(find::Find),
    Features(features::Features),
    Steer(steer::Steer),
    Generate(generate::Generate),
}

impl CodebookArguments {
    pub fn run(self) -> Result<()> {
        match self.command {
            CodebookCommand::Train(command) => command.run(),
            CodebookCommand::States(command) => command.run(),
            CodebookCommand::Find(command) => command.run(),
            CodebookCommand::Features(command) => command.run(),
            CodebookCommand::Steer(command) => command.run(),
            CodebookCommand::Generate(command) => command.run(),
        }
    }
}
