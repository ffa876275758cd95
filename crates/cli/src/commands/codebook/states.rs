//! `lapidary codebook states`.

use crate::arguments::DeviceArgument;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::CodebookRun;
use lapidary_codebook::{StateCode, TokFsm, neuron_precisions, patch_state, state_codes};
use serde::Serialize;
use serde_json::json;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Pairs of states whose codes are replaced, where nothing else is said.
const PATCHES: u32 = 50;

/// Find the code and the neuron that best classify each state of a TokFSM, and measure the effect
/// of replacing a state's codes by those of another state
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook states fsm --patches 100 > states.json
  lapidary codebook states fsm --neurons-of dense")]
pub struct States {
    /// Folder of a finished run of `lapidary codebook train` on a TokFSM
    run: PathBuf,
    /// Number of held-out sequences on which precision and recall are counted
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sequences: u32,
    /// Minimum recall: of the codes with at least this recall for a state, the code with the
    /// highest precision is chosen
    #[arg(long, default_value_t = 0.3)]
    recall: f64,
    /// Number of random pairs of states whose codes are replaced; 0 means none. States can be
    /// replaced only if codebook.k is 1. Default: 50, or 0 for another k
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    patches: Option<u32>,
    /// Compare the codes with the neurons of this run on the same TokFSM, such as a run without
    /// codebooks; default: RUN
    #[arg(long, value_name = "DIR")]
    neurons_of: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

/// A code beside the best neuron at its recall.
#[derive(Serialize)]
struct Beside<'a> {
    #[serde(flatten)]
    code: &'a StateCode,
    neuron_precision: f64,
}

impl States {
    pub fn run(self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.recall) {
            bail!("--recall: found {}, expected 0 to 1", self.recall);
        }
        let device = self.device.open()?;
        let open = |folder: &Path| -> Result<(CodebookRun, TokFsm)> {
            let run = CodebookRun::open(folder, &device)?;
            let Some(fsm) = run.machine()? else {
                bail!(
                    "{}: the model was trained on text, expected a TokFSM (data.kind = \"tokfsm\")",
                    folder.display()
                );
            };
            Ok((run, fsm))
        };
        let (run, fsm) = open(&self.run)?;
        let other = self.neurons_of.as_deref().map(open).transpose()?;
        if let (Some((_, other)), Some(folder)) = (&other, &self.neurons_of)
            && *other != fsm
        {
            bail!(
                "--neurons-of {}: found another TokFSM than that of {}",
                folder.display(),
                self.run.display()
            );
        }
        let (seed, sequences) = (run.config.seed, self.sequences as usize);
        let (model, codebooks) = (&run.model, &run.codebooks);
        let codes = state_codes(model, codebooks, &fsm, seed, sequences, self.recall)?;
        let with_neurons = other.as_ref().map_or(&run, |(run, _)| run);
        let (neurons_of, under) = (&with_neurons.model, &with_neurons.codebooks);
        let neurons = neuron_precisions(neurons_of, under, &fsm, seed, sequences, &codes)?;
        let placed = codebooks.placed();
        let one_code = placed.iter().all(|p| p.codebook.options().k == 1);
        let patched = match self.patches.unwrap_or(if one_code { PATCHES } else { 0 }) {
            0 => None,
            n => Some(patch_state(
                model, codebooks, &fsm, seed, sequences, n as usize,
            )?),
        };
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let values: Vec<f64> = values.collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        let beside = codes.iter().zip(&neurons);
        let found = json!({
            "mean_precision": mean(&mut codes.iter().map(|c| c.precision)),
            "mean_recall": mean(&mut codes.iter().map(|c| c.recall)),
            "mean_neuron_precision": mean(&mut neurons.iter().copied()),
            "patched": patched,
            "codes": beside.map(|(code, neuron)| Beside { code, neuron_precision: *neuron }).collect::<Vec<_>>(),
        });
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&found)?)?;
        Ok(())
    }
}
