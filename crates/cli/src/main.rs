//! The command `lapidary`: parses, calls the libraries, shows progress, prints.

// They panic where the reader has gone: `progress::say!` and `writeln!` do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod arguments;
mod commands;
mod downloads;
mod interrupt;
mod once;
mod progress;
mod terminal;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;
use terminal::visible;

#[global_allocator]
static MEMORY: lapidary_kernels::HugePages = lapidary_kernels::HugePages;

/// Trains sparse autoencoders, transcoders and crosscoders on the activations of language models.
///
/// `lapidary quickstart --out out` trains a sparse autoencoder on the small language model inside
/// the program, and writes the dictionary, its metrics, feature tables and a report.
#[derive(Parser)]
#[command(
    name = "lapidary",
    version,
    propagate_version = true,
    max_term_width = 110
)]
struct Cli {
    /// Print only results and errors
    #[arg(short, long, global = true)]
    quiet: bool,
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
    SaeProbes(commands::sae_probes::SaeProbes),
    Absorption(commands::absorption::Absorption),
    Synthetic(commands::synthetic::Synthetic),
    Circuit(commands::circuit::Circuit),
    Codebook(commands::codebook::CodebookArguments),
    Dkvb(commands::dkvb::Dkvb),
    Features(commands::features::Features),
    Report(commands::report::Report),
    Serve(commands::serve::Serve),
    Plot(commands::plot::Plot),
    Fire(commands::fire::Fire),
    Compare(commands::compare::Compare),
    Select(commands::select::Select),
    Label(commands::label::Label),
    Neurons(commands::neurons::Neurons),
    Measure(commands::measure::Measure),
    Export(commands::export::Export),
    Encode(commands::encode::Encode),
    Convert(commands::convert::Convert),
    Quantize(commands::quantize::Quantize),
    Run(commands::run::Run),
    Generate(commands::generate::Generate),
    Inspect(commands::inspect::Inspect),
    Devices(commands::devices::Devices),
    Template(commands::template::Template),
    Completions(commands::completions::Completions),
    Pretrain(commands::pretrain::Pretrain),
    Bench(commands::bench::Bench),
}

/// The whole command line, for completions.
pub fn command_line() -> clap::Command {
    Cli::command()
}

fn main() -> ExitCode {
    MEMORY.keep_freed();
    lapidary_kernels::device::quiet_loader();
    let cli = Cli::parse();
    match cli.quiet {
        true => progress::be_quiet(),
        false => downloads::show(),
    }
    let result = match cli.command {
        Command::Quickstart(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Harvest(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Probe(command) => command.run(),
        Command::SaeProbes(command) => command.run(),
        Command::Absorption(command) => command.run(),
        Command::Synthetic(command) => command.run(),
        Command::Circuit(command) => command.run(),
        Command::Codebook(command) => command.run(),
        Command::Dkvb(command) => command.run(),
        Command::Features(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Plot(command) => command.run(),
        Command::Fire(command) => command.run(),
        Command::Select(command) => command.run(),
        Command::Compare(command) => command.run(),
        Command::Label(command) => command.run(),
        Command::Neurons(command) => command.run(),
        Command::Measure(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Encode(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Quantize(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Devices(command) => command.run(),
        Command::Template(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Pretrain(command) => command.run(),
        Command::Bench(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough, as `head` has.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if is_interrupted(&error) => {
            progress::say!("{:>10} {error}", "stop");
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => {
            progress::print_always(format_args!("error: {}", visible(&message(&error))));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, each of which is named once: many errors repeat the text of their
/// cause.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<lapidary::Error>();
    matches!(error, Some(lapidary::Error::Interrupted(_)))
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::message;
    use anyhow::Context;

    #[test]
    fn a_cause_is_named_once() {
        let full =
            || lapidary_io::IoError::write("x".as_ref())(std::io::ErrorKind::StorageFull.into());
        let said = message(&full().into());
        assert_eq!(said.matches("no storage space").count(), 1, "{said}");
        let said = message(&Err::<(), _>(full()).context("coder a").unwrap_err());
        assert_eq!(said, "coder a: x: cannot be written: no storage space");
    }
}
