//! `lapidary probe`.

use super::figures::number;
use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::once::each_once;
use crate::progress::{Stage, Watched};
use crate::terminal::shown;
use anyhow::{Context, Result, bail};
use clap::Args;
use lapidary::run_folder::write_json;
use lapidary::{LabelledPassages, LabelledTexts, Opened, Passage};
use lapidary_coder::Coder;
use lapidary_evaluation::probing::{
    ProbeConfig, ProbeResult, Reading, Represented, Rows, Task, represent, sparse_probing,
};
use lapidary_io::check_target;
use lapidary_io::tensors::TensorWriter;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Sparse probing: measure how well a few latents classify texts
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary probe out --task embedded --label-field president --passages 40
  lapidary probe out --task reviews.jsonl --label-field sentiment --k 1,2,5
  lapidary probe my-dictionary --model ./smollm2 --task news.parquet --label-field topic --out probe.json

A sample is one passage. It is represented by the mean of its codes, or of its activations, over all tokens except special tokens.
A probe separates the samples of one class from an equal number of samples of other classes. So an accuracy of 0.5 is chance.
A probe on k latents uses the latents whose means differ most between the class and the other classes.
For comparison, there are probes on k dimensions of the activation, on all latents, and on all dimensions.")]
pub struct Probe {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Texts with classes, as JSON Lines or Parquet: `embedded`, a file, a folder, or hf:OWNER/NAME
    /// (a dataset on the Hugging Face hub)
    #[arg(long, value_name = "TEXTS")]
    task: String,
    /// JSON field or Parquet column that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// JSON field or Parquet column that has the class: a string, a number, or true or false
    #[arg(long, value_name = "NAME", default_value = "label")]
    label_field: String,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Number of latents of a probe. Several values, separated by commas, give several probes per
    /// class
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 5], value_name = "K")]
    k: Vec<usize>,
    /// Number of classes to probe; the classes with the most texts are chosen
    #[arg(long, default_value_t = 5)]
    classes: usize,
    /// Maximum number of passages per text. A passage has at most as many tokens as the
    /// dictionary's context. All passages of a text are in the same set: the training set or the
    /// test set
    #[arg(long, default_value_t = 1)]
    passages: usize,
    /// Maximum number of passages per class in the training set, and also in the test set
    #[arg(long, default_value_t = 2500)]
    samples: usize,
    /// Share of the texts of each class that are in the test set
    #[arg(long, default_value_t = 0.2)]
    test_share: f64,
    /// Seed for all random choices
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also write the results to this JSON file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write the samples and their classes to this safetensors file
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Print the results as JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Probe {
    pub fn run(self) -> Result<()> {
        for path in self.out.iter().chain(&self.data) {
            check_target(path)?;
        }
        if !(0.0..1.0).contains(&self.test_share) || self.test_share == 0.0 {
            bail!(
                "--test-share: found {}, expected more than 0 and less than 1",
                self.test_share
            );
        }
        each_once("--k", &self.k)?;
        let device = self.device.open()?;
        let opened = self
            .from
            .open_with_model(&self.dictionary, self.model.as_deref(), &device)?;
        let d_sae = opened.dictionary.coder.d_sae();
        if let Some(k) = self.k.iter().find(|k| **k == 0 || **k > d_sae) {
            bail!("--k: found {k}, expected 1 to {d_sae}, the number of latents");
        }
        let LabelledPassages {
            classes,
            train,
            test,
            ..
        } = self.read(&opened)?;
        let coder = opened.dictionary.coder.clone().to_device(&device);
        let train_classes = train.iter().map(|(_, class)| *class).collect();
        let test_classes = test.iter().map(|(_, class)| *class).collect();
        let task = Task {
            classes,
            train: self.represent(&opened, &coder, train)?,
            train_classes,
            test: self.represent(&opened, &coder, test)?,
            test_classes,
        };
        let config = ProbeConfig {
            ks: self.k.clone(),
            seed: self.seed,
            ..ProbeConfig::default()
        };
        let stage = Stage::new("probe", task.classes.len() as u64);
        let found = sparse_probing(&task, &config, &mut |n| {
            stage.at(n as u64, format!("{n} classes"));
        })?;
        stage.done(format!("{} classes", found.len()));
        if let Some(path) = &self.data {
            write_data(path, &task, &found)?;
        }
        if let Some(path) = &self.out {
            write_json(path, &found)?;
        }
        if self.json {
            writeln!(stdout(), "{}", serde_json::to_string_pretty(&found)?)?;
        } else {
            write!(stdout(), "{}", shown(&table(&found)))?;
        }
        Ok(())
    }

    /// Names of the classes, samples to train on and to test on.
    fn read(&self, opened: &Opened) -> Result<LabelledPassages> {
        let texts = LabelledTexts {
            source: self.task.clone(),
            text_field: self.text_field.clone(),
            label_field: self.label_field.clone(),
            classes: self.classes,
            passages: self.passages,
            samples: self.samples,
            test_share: self.test_share,
            seed: self.seed,
        };
        Ok(texts.read(&opened.model, opened.context(), 0, &Watched)?)
    }

    fn represent(
        &self,
        opened: &Opened,
        coder: &dyn Coder,
        samples: Vec<Passage>,
    ) -> Result<Represented> {
        let texts: Vec<_> = samples
            .into_iter()
            .map(|(tokens, _)| (tokens, Reading::Mean))
            .collect();
        let stage = Stage::new("represent", texts.len() as u64);
        let hook = opened.only_hook()?;
        let (context, _) = opened.context();
        let represented = represent(&opened.model, coder, hook, &texts, context, &mut |n| {
            stage.at(n as u64, format!("{n} texts"));
        })?;
        stage.done(format!("{} texts", texts.len()));
        Ok(represented)
    }
}

/// Dense samples and classes, and which of them each class was probed on, for a notebook.
fn write_data(path: &Path, task: &Task, results: &[ProbeResult]) -> Result<()> {
    let mut file = TensorWriter::default();
    let parts = [
        ("train", &task.train, &task.train_classes),
        ("test", &task.test, &task.test_classes),
    ];
    for (name, part, classes) in parts {
        for (kind, rows) in [
            ("activations", &part.activations),
            ("latents", &part.latents),
        ] {
            let values = dense(rows).with_context(|| path.display().to_string())?;
            let shape = [rows.len(), rows.columns()];
            file.f32(&format!("{name}.{kind}"), &shape, &values);
        }
        let classes: Vec<i32> = classes.iter().map(|c| *c as i32).collect();
        file.i32(&format!("{name}.classes"), &[classes.len()], &classes);
    }
    for (class, result) in results.iter().enumerate() {
        for (part, samples) in ["train", "test"].into_iter().zip(&result.samples) {
            let samples: Vec<i32> = samples.iter().map(|i| *i as i32).collect();
            let name = format!("{part}.samples.{class}");
            file.i32(&name, &[samples.len()], &samples);
        }
    }
    Ok(file.write_atomically(path, None)?)
}

/// Largest matrix that is written densely: 4 GiB.
const MOST_VALUES: usize = 1 << 30;

/// All entries, row by row.
pub fn dense(rows: &Rows) -> Result<Vec<f32>> {
    let size = rows.len() * rows.columns();
    if size > MOST_VALUES {
        bail!(
            "found {} samples of {} latents, expected at most {MOST_VALUES} values",
            rows.len(),
            rows.columns()
        );
    }
    let mut values = vec![0.0; size];
    for (i, row) in values.chunks_exact_mut(rows.columns()).enumerate() {
        rows.row(i).iter().for_each(|(j, v)| row[*j as usize] = *v);
    }
    Ok(values)
}

fn table(results: &[ProbeResult]) -> String {
    let mut text = String::from(
        "  class                        texts    k   latents   dimensions   the latents\n",
    );
    for r in results {
        let name: String = r.class.chars().take(26).collect();
        for top in &r.top_k {
            let latents: Vec<String> = top.latents.iter().map(usize::to_string).collect();
            text += &format!(
                "  {name:<26} {:>7} {:>4} {:>9} {:>12}   {}\n",
                r.test_texts,
                top.k,
                number(top.sae_test_accuracy),
                number(top.llm_test_accuracy),
                latents.join(" ")
            );
        }
        text += &format!(
            "  {name:<26} {:>7}  all {:>9} {:>12}\n",
            r.test_texts,
            number(r.sae_test_accuracy),
            number(r.llm_test_accuracy)
        );
    }
    let mean = |of: &dyn Fn(&ProbeResult) -> f64| {
        number(results.iter().map(of).sum::<f64>() / results.len().max(1) as f64)
    };
    for (place, k) in results
        .first()
        .map(|r| &r.top_k)
        .into_iter()
        .flatten()
        .map(|t| t.k)
        .enumerate()
    {
        text += &format!(
            "  {:<26} {:>7} {k:>4} {:>9} {:>12}\n",
            "mean",
            "",
            mean(&|r| r.top_k[place].sae_test_accuracy),
            mean(&|r| r.top_k[place].llm_test_accuracy)
        );
    }
    text
}
