//! The command `lapidary`: parses, calls the libraries, shows progress, prints.

mod arguments;
mod commands;
mod first_batch;
mod progress;
mod recipe;
mod run_folder;
mod summary;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static MEMORY: lapidary_kernels::HugePages = lapidary_kernels::HugePages;

/// Cuts language-model activations into interpretable features.
///
/// `lapidary quickstart --out out` trains a sparse autoencoder on the small language model that the program carries,
/// and writes the dictionary, its figures of merit, feature tables and a report.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(commands::train::Quickstart),
    Train(commands::train::Train),
    Harvest(commands::harvest::Harvest),
    Eval(commands::eval::Eval),
    Probe(commands::probe::Probe),
    Absorption(commands::absorption::Absorption),
    Synthetic(commands::synthetic::Synthetic),
    Features(commands::features::Features),
    Encode(commands::encode::Encode),
    Convert(commands::convert::Convert),
    Run(commands::run::Run),
    Generate(commands::generate::Generate),
    Inspect(commands::inspect::Inspect),
    Devices(commands::devices::Devices),
    Pretrain(commands::pretrain::Pretrain),
    Bench(commands::bench::Bench),
}

fn main() -> ExitCode {
    MEMORY.keep_freed();
    lapidary_kernels::device::quiet_loader();
    let result = match Cli::parse().command {
        Command::Quickstart(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Harvest(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Probe(command) => command.run(),
        Command::Absorption(command) => command.run(),
        Command::Synthetic(command) => command.run(),
        Command::Features(command) => command.run(),
        Command::Encode(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Devices(command) => command.run(),
        Command::Pretrain(command) => command.run(),
        Command::Bench(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough, as `head` has.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}
