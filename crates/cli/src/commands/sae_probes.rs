//! `lapidary sae-probes`.

use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::once::each_once;
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use lapidary::{SaeProbesOptions, count, probe_data_sets};
use lapidary_coder::Coder;
use lapidary_evaluation::probing::sae_probes::{
    ProbeFigures, ProbeOf, RegType, Setting, Spread, class_fractions, flipped_fractions, summarize,
    train_sizes,
};
use lapidary_features::{RunRow, write_runs};
use lapidary_io::check_target;
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Probe latents on the data sets of the Python package sae-probes
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary sae-probes out --data venv/lib/python3.11/site-packages/sae_probes --only 114_nyc_borough_Manhattan
  lapidary sae-probes my-dictionary --model ./smollm2 --data sae_probes --cache probe-cache --seeds 5 --out probes.parquet
  lapidary sae-probes out --data sae_probes --setting scarcity --k 16 --reg l2

The data sets come with the Python package (pip install sae-probes), and not with Lapidary. --data is the folder sae_probes of the
installed package. A row of a data set is a prompt with its class, positive or negative. The prompt is represented by the activation at
its last token, and by the latents at this token.

For each seed, the rows for training and testing, the choice of the k latents, the penalties and the figures are those of the package.
The package's own seed is 42. If both programs choose the same latents, the test AUCs agree within 0.001. If several latents are equally
good, the package may choose other ones.

For a table of all 113 data sets, the model reads up to 5,000 prompts per data set. With --cache, the activations and latents are kept
for later runs. --out is written after each data set.

Columns of --out (docs/reference/tables.md defines them): dataset, setting, method (sae: k latents; logreg: the whole activation), k,
reg_type, seed, num_train, num_test, frac, ratio, test_auc, test_acc, test_f1, val_auc, c, indices (the latents, as a JSON list).")]
pub struct SaeProbes {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Folder `sae_probes` of the installed package
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// Names of data sets, separated by commas; default: the 113 with two classes
    #[arg(long, value_name = "NAME,NAME…", value_delimiter = ',')]
    only: Vec<String>,
    /// Which rows probes are trained on
    #[arg(long, value_name = "SETTING", default_value = "normal")]
    setting: Rule,
    /// Numbers of latents, separated by commas; default: 1, 2, 4, … 512 in the setting normal, else
    /// 16 and 128
    #[arg(long, value_name = "K,K…", value_delimiter = ',')]
    k: Vec<usize>,
    /// Penalty on the weights of a probe on latents; default: l1
    #[arg(long, value_name = "PENALTY")]
    reg: Option<Penalty>,
    /// Number of seeds. The seeds are 42, 43 and so on. With several seeds, the spread over seeds
    /// is printed
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    seeds: u16,
    /// Leave out the baseline: fit probes on latents only, and none on the whole activation
    #[arg(long)]
    no_baseline: bool,
    /// Maximum number of tokens of a prompt, including BOS. If a prompt is longer, its beginning is
    /// left out
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_tokens: usize,
    /// Folder in which activations and latents of each data set are kept for later runs
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Also write one row per probe to this Parquet file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rule {
    /// Up to 1,024 rows, half of them positive
    Normal,
    /// 20 numbers of rows, from 2 to 1,024
    Scarcity,
    /// 19 shares of positive rows, from 5 to 95 %
    Imbalance,
    /// 11 shares of flipped training labels, from 0 to half; only probes of the whole activation
    LabelNoise,
}

#[derive(Clone, Copy, ValueEnum)]
enum Penalty {
    /// Sum of absolute values
    L1,
    /// Half the sum of squares
    L2,
}

impl SaeProbes {
    pub fn run(self) -> Result<()> {
        if let Some(path) = &self.out {
            check_target(path)?;
        }
        each_once("--k", &self.k)?;
        each_once("--only", &self.only)?;
        let settings: Vec<Setting> = match self.setting {
            Rule::Normal => vec![Setting::Normal],
            Rule::Scarcity => train_sizes()
                .into_iter()
                .map(|num_train| Setting::Scarcity { num_train })
                .collect(),
            Rule::Imbalance => class_fractions()
                .into_iter()
                .map(|frac| Setting::Imbalance { frac })
                .collect(),
            Rule::LabelNoise => flipped_fractions()
                .into_iter()
                .map(|corrupt_frac| Setting::LabelNoise { corrupt_frac })
                .collect(),
        };
        if matches!(self.setting, Rule::LabelNoise) {
            let given = [
                ("--no-baseline", self.no_baseline),
                ("--k", !self.k.is_empty()),
                ("--reg", self.reg.is_some()),
            ];
            if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
                bail!("{option}: --setting label-noise has probes of the whole activation only");
            }
        }
        let device = self.device.open()?;
        let opened = self
            .from
            .open_with_model(&self.dictionary, self.model.as_deref(), &device)?;
        let d_sae = opened.dictionary.coder.d_sae();
        if let Some(k) = self.k.iter().find(|k| **k == 0 || **k > d_sae) {
            bail!("--k: found {k}, expected 1 to {d_sae}, the number of latents");
        }
        let options = SaeProbesOptions {
            data: self.data,
            only: self.only,
            settings,
            ks: (!self.k.is_empty()).then_some(self.k),
            reg_type: match self.reg {
                None | Some(Penalty::L1) => RegType::L1,
                Some(Penalty::L2) => RegType::L2,
            },
            seeds: (0..u32::from(self.seeds)).map(|seed| 42 + seed).collect(),
            baseline: !self.no_baseline,
            max_tokens: self.max_tokens,
            cache: self.cache,
        };
        let out = self.out;
        let figures = probe_data_sets(&opened, &options, &Watched, &mut |probes| {
            if let Some(path) = &out {
                let rows: Vec<RunRow> = probes.iter().map(row).collect();
                write_runs(path, &rows)?;
            }
            Ok(())
        })?;
        write!(stdout(), "{}", table(&figures)?)?;
        Ok(())
    }
}

/// A probe as a row of the table.
fn row(probe: &ProbeFigures) -> RunRow {
    let chosen = match probe.indices.is_empty() {
        true => Value::Null,
        false => json!(probe.indices),
    };
    let cells: [(&str, Value); 16] = [
        ("dataset", json!(probe.dataset)),
        ("setting", json!(probe.setting)),
        ("method", json!(probe.method)),
        ("k", json!(probe.k)),
        ("reg_type", json!(probe.reg_type)),
        ("seed", json!(probe.seed)),
        ("num_train", json!(probe.num_train)),
        ("num_test", json!(probe.num_test)),
        ("frac", json!(probe.frac)),
        ("ratio", json!(probe.ratio)),
        ("test_auc", json!(probe.metrics.test_auc)),
        ("test_acc", json!(probe.metrics.test_acc)),
        ("test_f1", json!(probe.metrics.test_f1)),
        ("val_auc", json!(probe.metrics.val_auc)),
        ("c", json!(probe.metrics.c)),
        ("indices", chosen),
    ];
    cells.map(|(name, cell)| (name.to_owned(), cell)).into()
}

/// Means over data sets, one line per kind of probe.
fn table(figures: &[ProbeFigures]) -> Result<String> {
    let means = summarize(figures)?;
    let seeds = means.first().map_or(0, |mean| mean.seeds);
    let of_seeds = count(seeds as u64, "seed");
    let mut text = format!("{of_seeds}: mean over data sets, ± standard error over them");
    if seeds > 1 {
        text += ", (standard deviation over seeds)";
    }
    text += "\n  method        k  setting            sets                test AUC                accuracy\n";
    for mean in &means {
        let method = match mean.method {
            ProbeOf::Sae => "sae",
            ProbeOf::Logreg => "logreg",
        };
        let k = mean.k.map_or("-".to_owned(), |k| k.to_string());
        let setting = match (mean.num_train, mean.frac, mean.ratio) {
            (Some(rows), ..) => format!("{rows} rows"),
            (_, Some(share), _) => format!("{:.0} % positive", 100.0 * share),
            (.., Some(share)) => format!("{:.0} % flipped", 100.0 * share),
            _ => mean.setting.to_owned(),
        };
        let (auc, accuracy) = (spread(&mean.test_auc), spread(&mean.test_acc));
        let line = format!("  {method:<8} {k:>6}  {setting:<16} {:>6}", mean.datasets);
        text += format!("{line} {auc:>23} {accuracy:>23}").trim_end();
        text.push('\n');
    }
    Ok(text)
}

fn spread(of: &Spread) -> String {
    let mut text = format!("{:.4}", of.mean);
    if let Some(error) = of.standard_error {
        text += &format!(" ± {error:.4}");
    }
    if let Some(deviation) = of.seed_deviation {
        text += &format!(" ({deviation:.4})");
    }
    text
}
