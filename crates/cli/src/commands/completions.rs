//! `lapidary completions`.

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;
use std::io::{Write, stdout};

/// Print completions for a shell
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary completions bash > ~/.local/share/bash-completion/completions/lapidary
  lapidary completions zsh > ~/.zfunc/_lapidary
  lapidary completions fish > ~/.config/fish/completions/lapidary.fish")]
pub struct Completions {
    /// Name of the shell
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<()> {
        // Written at once: `generate` itself would panic where the reader has gone.
        let mut script = vec![];
        let mut command = crate::command_line();
        clap_complete::generate(self.shell, &mut command, "lapidary", &mut script);
        stdout().write_all(&script)?;
        Ok(())
    }
}
