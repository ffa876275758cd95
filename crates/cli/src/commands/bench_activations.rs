//! `lapidary bench --activations`: what the training step and the encoder of a TopK coder cost on
//! stored activations of a model, beside random numbers of the same shape.

use super::sizes::Sizes;
use super::timing::{Ours, median};
use anyhow::{Result, ensure};
use burn::tensor::Device;
use lapidary::device::device_name;
use lapidary_activations::Store;
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;

/// Steps of training on the stored rows before anything is timed, so that the encoder is that of a
/// dictionary.
const LEARN: usize = 200;

/// What to measure.
pub struct ActivationsBench<'a> {
    pub store: &'a Path,
    /// Hook point of the store; not needed if it has one.
    pub hook: Option<String>,
    /// By default 32 times the width.
    pub d_sae: Option<usize>,
    pub k: usize,
    pub batch_tokens: usize,
    pub rounds: usize,
    pub json: bool,
}

/// Medians in seconds, of rounds in which each had its turn.
#[derive(Serialize)]
struct Findings {
    device: String,
    store: String,
    hook_point: String,
    #[serde(flatten)]
    sizes: Sizes,
    step_seconds: f64,
    encode_seconds: f64,
    random_step_seconds: f64,
    random_encode_seconds: f64,
    /// Stored rows over random numbers: the less the better.
    step_over_random: f64,
    encode_over_random: f64,
}

impl ActivationsBench<'_> {
    pub fn run(&self, device: &Device) -> Result<()> {
        let store = Arc::new(Store::open(self.store)?);
        let hooks = store.hooks();
        let names = || hooks.iter().map(|hook| &*hook.name).collect::<Vec<_>>();
        let hook = match (&self.hook, hooks) {
            (Some(hook), _) => hook.clone(),
            (None, [only]) => only.name.clone(),
            (None, _) => anyhow::bail!(
                "{}: found {} hook points, expected one of them as --hook: {}",
                self.store.display(),
                hooks.len(),
                names().join(", ")
            ),
        };
        let (_, d_in) = store.hook(&hook)?;
        let sizes = Sizes {
            d_in,
            d_sae: self.d_sae.unwrap_or(32 * d_in),
            k: self.k,
            batch_tokens: self.batch_tokens,
        };
        ensure!(
            sizes.k <= sizes.d_sae,
            "-k: found {}, expected at most {}, the number of latents",
            sizes.k,
            sizes.d_sae
        );
        let steps = LEARN + 4 * (self.rounds + 1);
        let mut real = Ours::on_store(&store, &hook, sizes, steps, device)?;
        real.steps(LEARN)?;
        let mut random = Ours::new("topk", sizes, device)?;
        let mut times = [const { vec![] }; 4];
        for round in 0..=self.rounds {
            for (at, ours) in [&mut real, &mut random].into_iter().enumerate() {
                // Each does a thing twice, and the second time counts: the first finds the caches
                // as the other one left them.
                ours.step()?;
                let step = ours.step()?;
                ours.encode()?;
                let encode = ours.encode()?;
                // The first round warms both up.
                if round > 0 {
                    times[2 * at].push(step);
                    times[2 * at + 1].push(encode);
                }
            }
        }
        let [step, encode, random_step, random_encode] = times.map(median);
        let findings = Findings {
            device: device_name(device),
            store: self.store.display().to_string(),
            hook_point: hook,
            sizes,
            step_seconds: step,
            encode_seconds: encode,
            random_step_seconds: random_step,
            random_encode_seconds: random_encode,
            step_over_random: step / random_step,
            encode_over_random: encode / random_encode,
        };
        let mut out = stdout();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?,
            false => write!(out, "{}", table(&findings))?,
        }
        Ok(())
    }
}

fn table(found: &Findings) -> String {
    let mut text = found.sizes.headline(&found.device);
    let Findings {
        store, hook_point, ..
    } = found;
    text += &format!("rows of {store}, {hook_point}, beside random numbers of the same shape\n");
    let rows = [
        (
            "training step",
            found.step_seconds,
            found.random_step_seconds,
            found.step_over_random,
        ),
        (
            "encode",
            found.encode_seconds,
            found.random_encode_seconds,
            found.encode_over_random,
        ),
    ];
    for (name, real, random, ratio) in rows {
        let (real, random) = (real * 1e3, random * 1e3);
        text +=
            &format!("{name:<20} {real:>9.1} ms, random {random:>9.1} ms, ratio {ratio:>5.2}\n");
    }
    text
}
