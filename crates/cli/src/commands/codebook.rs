//! `lapidary codebook`: models with codebooks in them, what their codes stand for, and text with
//! codes set by hand.

mod generate;
mod states;
mod train;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Codebooks: train a model whose activations are sums of a few codes, find what codes stand for,
/// and generate text with chosen codes
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook train configs/codebook/tokfsm-small.toml --out fsm
  lapidary codebook states fsm
  lapidary codebook generate fsm 0712 --set 0.1=17")]
pub struct CodebookArguments {
    #[command(subcommand)]
    command: CodebookCommand,
}

#[derive(Subcommand)]
enum CodebookCommand {
    Train(train::Train),
    States(states::States),
    Generate(generate::Generate),
}

impl CodebookArguments {
    pub fn run(self) -> Result<()> {
        match self.command {
            CodebookCommand::Train(command) => command.run(),
            CodebookCommand::States(command) => command.run(),
            CodebookCommand::Generate(command) => command.run(),
        }
    }
}
