//! `lapidary codebook states`.

use crate::arguments::DeviceArgument;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::CodebookRun;
use lapidary_codebook::{Data, patch_state, state_codes};
use serde_json::json;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Find the code that stands for each state of a TokFSM, and patch the codes of one state over
/// another's
#[derive(Args)]
#[command(after_help = "Example:\n  lapidary codebook states fsm --patches 100 > states.json")]
pub struct States {
    /// Folder of a finished `lapidary codebook train` on a TokFSM
    run: PathBuf,
    /// Held-out sequences in which codes are counted
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sequences: u32,
    /// Of the codes with at least this recall, the one of highest precision stands for a state
    #[arg(long, default_value_t = 0.8)]
    recall: f64,
    /// Random pairs of states to patch; 0 for none
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    patches: u32,
    #[command(flatten)]
    device: DeviceArgument,
}

impl States {
    pub fn run(self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.recall) {
            bail!("--recall: found {}, expected 0 to 1", self.recall);
        }
        let run = CodebookRun::open(&self.run, &self.device.open()?)?;
        let Data::TokFsm(fsm) = run.data()? else {
            bail!(
                "{}: the model was trained on text, expected a TokFSM (data.kind = \"tokfsm\")",
                self.run.display()
            );
        };
        let (seed, sequences) = (run.config.seed, self.sequences as usize);
        let (model, codebooks) = (&run.model, &run.codebooks);
        let codes = state_codes(model, codebooks, &fsm, seed, sequences, self.recall)?;
        let patched = match self.patches {
            0 => None,
            n => Some(patch_state(
                model, codebooks, &fsm, seed, sequences, n as usize,
            )?),
        };
        let n = codes.len().max(1) as f64;
        let found = json!({
            "mean_precision": codes.iter().map(|c| c.precision).sum::<f64>() / n,
            "mean_recall": codes.iter().map(|c| c.recall).sum::<f64>() / n,
            "patched": patched,
            "codes": codes,
        });
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&found)?)?;
        Ok(())
    }
}
