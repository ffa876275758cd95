//! `lapidary template`.

use anyhow::Result;
use clap::Args;
use lapidary_io::write_atomically;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// A recipe with the keys that are changed most.
const TEMPLATE: &str = include_str!("../../../../configs/template.toml");

/// Print a recipe to start from
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary template > my-recipe.toml
  lapidary train my-recipe.toml --out out")]
pub struct Template {
    /// Write the recipe to this new file instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Template {
    pub fn run(self) -> Result<()> {
        match self.out {
            Some(path) => {
                anyhow::ensure!(
                    !path.exists(),
                    "{} exists already: give another --out",
                    path.display()
                );
                write_atomically(&path, TEMPLATE.as_bytes())?;
            }
            None => stdout().write_all(TEMPLATE.as_bytes())?,
        }
        Ok(())
    }
}
