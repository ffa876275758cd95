//! `lapidary quantize`.

use crate::arguments::{DeviceArgument, DictionaryArgument};
use crate::progress::Watched;
use anyhow::Result;
use clap::Args;
use lapidary::{Cosines, QuantizationReport, QuantizeOptions, quantize_dictionary};
use lapidary_quantize::{Bits, Calibration, Granularity};
use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::PathBuf;

/// Write a dictionary with 8 or 4 bits per weight of its encoder and decoder
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary quantize out --out out-int8
  lapidary quantize out --out out-int4 --bits 4 --group 64 --calibration mse
  lapidary quantize out --out out-int8 --activations STORE
  lapidary encode --dictionary out-int8 --activations x.safetensors --out codes.safetensors

All commands that read a dictionary can read the output. When they read it, they expand its weights to f32.
So the files are smaller, but encoding takes as long as before. quantization.json in the output folder compares the dictionary with the
original.")]
pub struct Quantize {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DICTIONARY")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Bits per weight: 8 or 4
    #[arg(long, default_value = "8", value_parser = bits)]
    bits: Bits,
    /// Number of neighbouring weights with a common scale: 32, 64 or 128, or `row` for a whole row
    /// (the weights of one latent); default: row with 8 bits, 32 with 4 bits
    #[arg(long, value_name = "N", value_parser = granularity)]
    group: Option<Granularity>,
    /// How the range of each group of weights with a common scale is chosen: min-max clips no
    /// weight, mse minimizes the squared error
    #[arg(long, value_name = "HOW", default_value = "min-max", value_parser = calibration)]
    calibration: Calibration,
    /// Store of activations. Codes and reconstructions of its activations before and after
    /// quantization are compared
    #[arg(long, value_name = "STORE")]
    activations: Option<PathBuf>,
    /// Number of activations that are compared, spread evenly over the store
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Replace the dictionary in the folder --out
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Quantize {
    pub fn run(self) -> Result<()> {
        let device = self.device.open()?;
        let options = QuantizeOptions {
            bits: self.bits,
            granularity: self.group,
            calibration: self.calibration,
            activations: self.activations,
            rows: self.rows,
            overwrite: self.overwrite,
        };
        let how = self.from.options();
        let report = quantize_dictionary(
            &self.dictionary,
            how,
            &self.out,
            &options,
            &device,
            &Watched,
        )?;
        write!(stdout(), "{}", table(&report))?;
        Ok(())
    }
}

fn bits(text: &str) -> Result<Bits, String> {
    let bits = text.parse().ok().and_then(Bits::new);
    bits.ok_or_else(|| format!("found {text}, expected 8 or 4"))
}

fn granularity(text: &str) -> Result<Granularity, String> {
    let granularity = match text {
        "row" => Some(Granularity::Row),
        _ => text
            .parse()
            .ok()
            .and_then(|group| Granularity::new(Some(group))),
    };
    granularity.ok_or_else(|| format!("found {text}, expected 32, 64, 128 or row"))
}

fn calibration(text: &str) -> Result<Calibration, String> {
    Calibration::of_name(text).ok_or_else(|| format!("found {text}, expected min-max or mse"))
}

/// The report, one fact a line.
fn table(report: &QuantizationReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16} {value}");
    };
    line("weights", report.kind());
    let (before, after) = (report.bytes_before, report.bytes_after);
    let share = after as f64 / (before as f64).max(1.0);
    line(
        "bytes",
        format!("{before} before, {after} after ({share:.3})"),
    );
    let cosines = |c: Cosines| {
        format!(
            "cosine mean {:.6}, least {:.6}",
            c.cosine_mean, c.cosine_min
        )
    };
    for (name, found) in [
        ("encoder rows", report.encoder),
        ("decoder rows", report.decoder),
    ] {
        if let Some(found) = found {
            line(name, cosines(found));
        }
    }
    if let Some(e) = &report.effect {
        line("rows", format!("{} of {}", e.rows, e.activations));
        line(
            "L0",
            format!("{:.3} before, {:.3} after", e.l0_before, e.l0_after),
        );
        line(
            "active latents",
            format!("Jaccard index {:.4}, mean over rows", e.support_jaccard),
        );
        line(
            "FVU",
            format!(
                "{:.5} before, {:.5} after, change {:+.5}",
                e.fvu_before, e.fvu_after, e.fvu_change
            ),
        );
    }
    text
}
