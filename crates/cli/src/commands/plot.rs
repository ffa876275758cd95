//! `lapidary plot`.

use crate::once::each_once;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use lapidary::{Plot as What, plot};
use lapidary_features::plots::{FigureOptions, Theme};
use lapidary_io::{check_target, write_atomically};
use std::path::PathBuf;

/// Draw a figure of runs, as SVG or PNG
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary plot out --out density.svg
  lapidary plot out --kind training --curves fvu,dead --out training.png
  lapidary plot sweep --kind frontier --metric ce_loss_score --out frontier.svg
  lapidary plot out --kind latent --latent 1958 --out latent.svg
  lapidary plot out --kind scatter --column logit_kurtosis --theme dark --out scatter.png

The ending of --out chooses the format: .svg or .png. A folder of runs, such as that of a sweep, stands for all its runs.")]
pub struct Plot {
    /// Folders of runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// What to draw
    #[arg(long, value_name = "KIND", default_value = "density")]
    kind: Kind,
    /// With --kind training: quantities to draw, separated by commas, chosen from fvu, l0, loss,
    /// dead, lr and grad_norm; default: fvu,l0,loss,dead
    #[arg(long, value_name = "NAME,NAME…", value_delimiter = ',')]
    curves: Vec<String>,
    /// With --kind training: training steps on the x axis, in place of tokens
    #[arg(long)]
    steps: bool,
    /// With --kind training or --kind latent: a logarithmic x axis
    #[arg(long)]
    log_x: bool,
    /// With --kind frontier: metric on the y axis, by the name that `lapidary eval` prints;
    /// default: fvu
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// With --kind latent: number of the latent
    #[arg(long, value_name = "ID")]
    latent: Option<u32>,
    /// With --kind scatter: column of features.parquet on the y axis. One of encoder_decoder_cosine
    /// (the default), mean_activation, max_activation, logit_kurtosis, mean_position
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// File to write, .svg or .png
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Title above the figure
    #[arg(long)]
    title: Option<String>,
    /// Width, in CSS pixels
    #[arg(long, value_name = "N")]
    width: Option<u32>,
    /// Height, in CSS pixels
    #[arg(long, value_name = "N")]
    height: Option<u32>,
    /// Pixels of a PNG per CSS pixel [default: 2]
    #[arg(long, value_name = "X")]
    scale: Option<f64>,
    /// Colours
    #[arg(long, value_name = "THEME", default_value = "light")]
    theme: Colours,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// Histogram of the firing rates of the latents (needs features.parquet)
    Density,
    /// Curves of the training log (needs metrics.jsonl)
    Training,
    /// L0 on the x axis, a metric on the y axis, one point per run (needs metrics.json)
    Frontier,
    /// Histogram of one latent's activations (needs histograms.parquet)
    Latent,
    /// Firing rate on the x axis, another column of features.parquet on the y axis, one dot per
    /// latent
    Scatter,
}

#[derive(Clone, Copy, ValueEnum)]
enum Colours {
    /// Dark on white
    Light,
    /// Light on black
    Dark,
}

impl Plot {
    pub fn run(self) -> Result<()> {
        check_target(&self.out)?;
        let ending = self.out.extension().and_then(|ending| ending.to_str());
        let png = match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("png") => true,
            Some("svg") => false,
            _ => bail!(
                "--out: found {}, expected a file that ends in .svg or .png",
                self.out.display()
            ),
        };
        if let (false, Some(scale)) = (png, self.scale) {
            bail!("--scale: found {scale} for an SVG, which has no pixels, expected it with .png");
        }
        each_once("--curves", &self.curves)?;
        let given = [
            ("--curves", !self.curves.is_empty(), &[Kind::Training][..]),
            ("--steps", self.steps, &[Kind::Training]),
            ("--log-x", self.log_x, &[Kind::Training, Kind::Latent]),
            ("--metric", self.metric.is_some(), &[Kind::Frontier]),
            ("--latent", self.latent.is_some(), &[Kind::Latent]),
            ("--column", self.column.is_some(), &[Kind::Scatter]),
        ];
        for (option, given, kinds) in given {
            if given && !kinds.contains(&self.kind) {
                let names = kinds.iter().filter_map(|kind| kind.to_possible_value());
                let names: Vec<String> = names.map(|name| name.get_name().to_owned()).collect();
                bail!("{option} is for --kind {}", names.join(" or "));
            }
        }
        let what = match self.kind {
            Kind::Density => What::Density,
            Kind::Training => What::Training {
                curves: match self.curves.is_empty() {
                    true => ["fvu", "l0", "loss", "dead"].map(str::to_owned).into(),
                    false => self.curves,
                },
                steps: self.steps,
                log_x: self.log_x,
            },
            Kind::Frontier => What::Frontier {
                metric: self.metric.unwrap_or_else(|| "fvu".to_owned()),
            },
            Kind::Latent => match self.latent {
                Some(latent) => What::Latent {
                    latent,
                    log_x: self.log_x,
                },
                None => bail!("--kind latent needs --latent"),
            },
            Kind::Scatter => What::Scatter {
                column: self
                    .column
                    .unwrap_or_else(|| "encoder_decoder_cosine".to_owned()),
            },
        };
        let options = FigureOptions {
            title: self.title,
            width: self.width,
            height: self.height,
            theme: match self.theme {
                Colours::Light => Theme::Light,
                Colours::Dark => Theme::Dark,
            },
        };
        let figure = plot(&self.runs, &what, &options)?;
        let bytes = match png {
            true => figure.png(self.scale.unwrap_or(2.0))?,
            false => figure.svg().into_bytes(),
        };
        Ok(write_atomically(&self.out, &bytes)?)
    }
}
