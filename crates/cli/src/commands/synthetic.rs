//! `lapidary synthetic`.

use super::figures::sections;
use super::synthetic_spread as spread;
use crate::arguments::DeviceArgument;
use crate::progress::Stage;
use anyhow::Result;
use burn::tensor::Device;
use clap::Args;
use lapidary::run_folder::{Maker, RunWriter, write_json};
use lapidary::{DictionaryOptions, open_dictionary};
use lapidary_activations::NormalizationKind;
use lapidary_coder::Dictionary;
use lapidary_coder::Sites;
use lapidary_evaluation::synthetic::{
    Recovery, Sample, Synthetic as Features, SyntheticConfig, SyntheticSource, recovery,
};
use lapidary_formats::saelens;
use lapidary_io::check_target;
use lapidary_io::settings::SettingsError;
use lapidary_io::tensors::TensorWriter;
use lapidary_sae::{Recipe, TrainingRun};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Train a coder on synthetic activations with known features, and measure how many of the features
/// the coder finds
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary synthetic configs/synthetic/topk.toml
  lapidary synthetic configs/synthetic/topk.toml --set synthetic.kind=correlated --set coder.k=8
  lapidary synthetic configs/synthetic/synth_sae_bench.toml --seeds 5
  lapidary synthetic configs/synthetic/topk.toml --out out --data data.safetensors
  lapidary synthetic configs/synthetic/topk.toml --dictionary trained-elsewhere

Keys of the recipe:
  [synthetic]          the features: independent, correlated, hierarchical or synth_sae_bench
  [coder], [training]  the same keys as for `lapidary train`
  seed                 seed of all random numbers

Another program can train on the activations in the file of --data.")]
pub struct Synthetic {
    /// Recipe in TOML, such as configs/synthetic/topk.toml
    #[arg(value_name = "CONFIG")]
    recipe: PathBuf,
    /// Override a key of the recipe, such as synthetic.density=0.05; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Measure this dictionary (of any format) instead of training one
    #[arg(long, value_name = "DIR")]
    dictionary: Option<PathBuf>,
    /// Number of coders to train. They differ in their initial weights and batches. With several
    /// coders, the means of the metrics over the coders are printed, with standard errors
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100), conflicts_with = "dictionary")]
    seeds: u16,
    /// Number of rows (synthetic activations) that the metrics are computed on
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rows: u32,
    /// Folder for recovery.json and dictionary/. With several coders, also for seed1/dictionary/
    /// and so on. Without --out, neither metrics nor dictionaries are written
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the directions of the features, and the rows that the metrics are computed on, to
    /// this safetensors file
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Print the metrics as JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Synthetic {
    pub fn run(self) -> Result<()> {
        let device = self.device.open()?;
        let place = self.recipe.display().to_string();
        let text = lapidary_io::read_text(&self.recipe)?;
        let (config, run) = read_recipe(&place, &text, &self.set)?;
        let seed = run.seed;
        if let Some(path) = &self.data {
            check_target(path)?;
        }
        let seeds = u64::from(self.seeds);
        let mut writer = match &self.out {
            Some(folder) => Some(RunWriter::claim(folder, Maker::Synthetic, &files(seeds))?),
            None => None,
        };
        let stage = Stage::new("features", 1);
        let features = Features::new(config, &mut ChaCha8Rng::seed_from_u64(seed))?;
        stage.done(format!("{} directions", features.directions().len()));
        // Not the rows of the training, nor the numbers that made the directions.
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(2));
        let sample = features.sample(self.rows as usize, &mut rng);
        if let Some(path) = &self.data {
            write_data(path, &features, &sample)?;
        }
        let mut all: Vec<Recovery> = vec![];
        let mut result = serde_json::Value::Null;
        for number in 0..seeds {
            let dictionary = match &self.dictionary {
                Some(folder) => open_dictionary(folder, DictionaryOptions::default(), &device)?,
                None => {
                    let mut run = run.clone();
                    run.seed = seed.wrapping_add(SEED_STEP * number);
                    train(&features, run, &device)?
                }
            };
            let stage = Stage::new("measure", sample.features.len() as u64);
            let coder = dictionary.coder.clone().to_device(&device);
            let found = recovery(&features, &sample, &coder, &mut |rows| {
                stage.at(rows as u64, format!("{rows} rows"));
            })?;
            stage.done(format!(
                "MCC {:.4}, F1 {:.4} of {} features, {} latents",
                found.mcc, found.f1_score, found.n_features, found.d_sae
            ));
            if let (Some(folder), Some(writer)) = (&self.out, &mut writer) {
                if number == 0 {
                    writer.add(files(seeds))?;
                }
                if self.dictionary.is_none() {
                    saelens::save(&dictionary, &folder.join(dictionary_of(number)))?;
                }
            }
            all.push(found);
            result = match &all[..] {
                [one] => serde_json::to_value(one)?,
                several => spread::json(several)?,
            };
            if let Some(folder) = &self.out {
                write_json(&folder.join("recovery.json"), &result)?;
            }
        }
        if self.json {
            writeln!(stdout(), "{}", serde_json::to_string_pretty(&result)?)?;
        } else {
            let text = match &all[..] {
                [one] => sections(one.values()),
                several => spread::table(several),
            };
            write!(stdout(), "{text}")?;
        }
        Ok(())
    }
}

/// Between the seeds of two coders, so that the numbers that are drawn from each differ.
const SEED_STEP: u64 = 1000;

/// The folder of the dictionary of a seed, counted from 0.
fn dictionary_of(number: u64) -> String {
    match number {
        0 => "dictionary".to_owned(),
        number => format!("seed{number}/dictionary"),
    }
}

/// What goes into `--out`.
fn files(seeds: u64) -> BTreeSet<String> {
    let dictionaries = (0..seeds).flat_map(|number| {
        let parts = ["cfg.json", "sae_weights.safetensors"];
        parts.map(|part| format!("{}/{part}", dictionary_of(number)))
    });
    dictionaries.chain(["recovery.json".to_owned()]).collect()
}

fn train(features: &Features, run: Recipe, device: &Device) -> Result<Dictionary> {
    let source = SyntheticSource::new(
        features.clone(),
        run.training.batch_tokens,
        run.seed.wrapping_add(1),
        device,
    );
    let mut trainer = TrainingRun::new(&[run], Box::new(source), device)?;
    let stage = Stage::new("train", trainer.total_steps());
    trainer.run(&mut |_, report| {
        stage.at(
            report.step,
            format!(
                "loss {:.4}  FVU {:.3}  L0 {:.1}",
                report.loss, report.fvu, report.l0
            ),
        );
    })?;
    stage.done(format!("{} steps", trainer.step_count()));
    let mut dictionary = trainer.finish(0)?;
    // It belongs to no model and no text, whatever a recipe's defaults are.
    dictionary.provenance.model_name = None;
    dictionary.provenance.sites = Sites::default();
    dictionary.provenance.corpus = Some("synthetic".to_owned());
    dictionary.provenance.recipe = None;
    Ok(dictionary)
}

fn write_data(path: &Path, features: &Features, sample: &Sample) -> Result<()> {
    let (rows, d) = (sample.features.len(), features.d_in());
    let directions: Vec<f32> = features
        .directions()
        .iter()
        .flatten()
        .map(|v| *v as f32)
        .collect();
    let most = sample
        .features
        .iter()
        .map(Vec::len)
        .max()
        .unwrap_or(0)
        .max(1);
    let mut values = vec![0.0f32; rows * most];
    let mut indices = vec![-1i32; rows * most];
    for (row, fired) in sample.features.iter().enumerate() {
        for (place, (feature, size)) in fired.iter().enumerate() {
            indices[row * most + place] = *feature as i32;
            values[row * most + place] = *size;
        }
    }
    let mut file = TensorWriter::default();
    let n = features.directions().len();
    file.borrowed_f32("directions", &[n, d], &directions);
    file.borrowed_f32("activations", &[rows, d], &sample.x);
    file.borrowed_f32("feature_values", &[rows, most], &values);
    file.i32("feature_indices", &[rows, most], &indices);
    Ok(file.write_atomically(path, None)?)
}

/// A recipe with a table `synthetic`: that, and what it says about the coder and its training.
/// `set` are items `dotted.key=value` for either.
///
/// # Errors
/// It cannot be read, or asks for what there is not on synthetic activations.
fn read_recipe(file: &str, text: &str, set: &[String]) -> Result<(SyntheticConfig, Recipe)> {
    let mut rest: toml::Table =
        text.parse()
            .map_err(|e: toml::de::Error| SettingsError::Syntax {
                place: file.to_owned(),
                message: e.to_string().trim_end().to_owned(),
            })?;
    let mut own = toml::Table::new();
    if let Some(table) = rest.remove("synthetic") {
        own.insert("synthetic".to_owned(), table);
    }
    let (own_set, rest_set): (Vec<String>, Vec<String>) = set
        .iter()
        .cloned()
        .partition(|item| item.starts_with("synthetic."));
    let synthetic = SyntheticConfig::parse(file, &own.to_string(), &own_set)?;
    synthetic.check()?;
    let text_keys = [
        "model",
        "hook_point",
        "corpus",
        "activations",
        "evaluation",
        "features",
    ];
    if let Some(key) = text_keys.into_iter().find(|key| rest.contains_key(*key)) {
        return Err(SettingsError::Value {
            place: file.to_owned(),
            key: key.to_owned(),
            found: "a value".to_owned(),
            expected: "nothing: synthetic activations come from no model and no text".to_owned(),
        }
        .into());
    }
    let mut run = Recipe::parse(file, &rest.to_string(), &rest_set)?;
    run.activations.normalization = NormalizationKind::None;
    run.training.checkpoint_every_steps = 0;
    Ok((synthetic, run))
}

#[cfg(test)]
mod tests {
    use super::sections;
    use lapidary_evaluation::synthetic::Recovery;

    #[test]
    fn the_printed_table_is_what_it_was() {
        let recovery: Recovery = serde_json::from_str(include_str!(
            "../../../../tests/fixtures/metrics/recovery.json"
        ))
        .unwrap();
        let expected = include_str!("../../../../tests/fixtures/metrics/recovery.txt");
        assert_eq!(sections(recovery.values()), expected);
    }
}
