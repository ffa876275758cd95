//! Figures of runs: their tables, logs and metrics, drawn.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use lapidary_coder::Coder;
use lapidary_evaluation::Metrics;
use lapidary_features::plots::{
    ActivationBin, Curve, DensityRun, Figure, FigureOptions, FrontierPoint, Panel, Scale, Scatter,
    density, frontier, latent, scatter, training,
};
use lapidary_features::{FeatureRow, read_features, read_histograms};
use lapidary_formats::saelens;
use lapidary_sae::StepReport;

use crate::error::{Context, Result, bail};
use crate::opened::{DictionaryOptions, open_dictionary};
use crate::run_folder::RunFolder;

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Plot {
    /// A histogram of the latents' firing densities.
    Density,
    /// Curves of the training log.
    Training {
        /// What is drawn, a panel each; names of [`CURVES`].
        curves: Vec<String>,
        /// Whether the x axis has steps, not tokens.
        steps: bool,
        /// Whether the x axis is logarithmic.
        log_x: bool,
    },
    /// L0 against a metric, a point per run.
    Frontier {
        /// The metric's name.
        metric: String,
    },
    /// A histogram of one latent's activations.
    Latent {
        /// The latent.
        latent: u32,
        /// Whether the x axis is logarithmic.
        log_x: bool,
    },
    /// Firing density against another column of `features.parquet`, a dot per latent.
    Scatter {
        /// The column; one of [`COLUMNS`].
        column: String,
    },
}

/// A quantity of the training log: its name, its label, and how it is read from a line, given the
/// number of latents.
type LogQuantity = (&'static str, &'static str, fn(&StepReport, f64) -> f64);

/// What [`Plot::Training`] can draw.
pub const CURVES: [LogQuantity; 6] = [
    ("fvu", "FVU", |step, _| step.fvu),
    ("l0", "L0", |step, _| step.l0),
    ("loss", "Loss", |step, _| step.loss),
    ("dead", "Dead latents (share)", |step, d_sae| {
        step.dead as f64 / d_sae
    }),
    ("lr", "Learning rate", |step, _| step.lr),
    ("grad_norm", "Gradient norm", |step, _| step.grad_norm),
];

/// A column of `features.parquet`: its name, its label, and how it is read.
type Quantity = (&'static str, &'static str, fn(&FeatureRow) -> Option<f64>);

/// What [`Plot::Scatter`] can draw.
pub const COLUMNS: [Quantity; 5] = [
    (
        "encoder_decoder_cosine",
        "Cosine of encoder and decoder row",
        |row| row.encoder_decoder_cosine.map(f64::from),
    ),
    ("mean_activation", "Mean activation", |row| {
        Some(f64::from(row.mean_activation))
    }),
    ("max_activation", "Largest activation", |row| {
        Some(f64::from(row.max_activation))
    }),
    ("logit_kurtosis", "Kurtosis of the logits", |row| {
        row.logit_kurtosis.map(f64::from)
    }),
    ("mean_position", "Mean position in the document", |row| {
        row.mean_position
    }),
];

/// The runs at some paths: each a run's folder, or a folder of runs (a sweep), whose runs are taken
/// in the order of their names.
///
/// # Errors
/// A path has no run.
fn runs(paths: &[PathBuf]) -> Result<Vec<RunFolder>> {
    let is_run = |path: &Path| {
        let folder = RunFolder::new(path);
        let trained = saelens::exists(&folder.dictionary()) || folder.metrics_log().is_file();
        trained || folder.features().is_dir()
    };
    let mut runs = vec![];
    for path in paths {
        if is_run(path) {
            runs.push(RunFolder::new(path));
            continue;
        }
        let inside = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
        let mut inside: Vec<PathBuf> = inside.flatten().map(|entry| entry.path()).collect();
        inside.retain(|path| is_run(path));
        inside.sort();
        if inside.is_empty() {
            bail!(
                "{}: found no run, expected a folder with dictionary/, features/ or metrics.jsonl, or a folder of such folders",
                path.display()
            );
        }
        runs.extend(inside.iter().map(|path| RunFolder::new(path)));
    }
    Ok(runs)
}

/// The runs' names: their paths without the folders that all have in common.
fn names(runs: &[RunFolder]) -> Vec<String> {
    let parts = |run: &RunFolder| -> Vec<String> {
        let parts = run.path.components();
        let parts = parts.map(|part| part.as_os_str().to_string_lossy().into_owned());
        parts.collect()
    };
    let parts: Vec<Vec<String>> = runs.iter().map(parts).collect();
    let shortest = parts.iter().map(Vec::len).min().unwrap_or(0);
    let common = (0..shortest.saturating_sub(1))
        .take_while(|at| parts.iter().all(|of_run| of_run[*at] == parts[0][*at]))
        .count();
    parts
        .iter()
        .map(|of_run| of_run[common..].join("/"))
        .collect()
}

/// Draws a figure of the runs at `paths`.
///
/// # Errors
/// A run or a table cannot be read, it lacks what is drawn, or an option is out of range.
pub fn plot(paths: &[PathBuf], plot: &Plot, options: &FigureOptions) -> Result<Figure> {
    let runs = runs(paths)?;
    let names = names(&runs);
    match plot {
        Plot::Density => {
            let of_run = |run: &RunFolder| -> Result<Vec<f64>> {
                let rows = features(run)?;
                Ok(rows.iter().map(|row| row.firing_density).collect())
            };
            let densities: Vec<Vec<f64>> = runs.iter().map(of_run).collect::<Result<_>>()?;
            let runs = names.iter().zip(&densities);
            let runs: Vec<DensityRun<'_>> = runs
                .map(|(name, densities)| DensityRun { name, densities })
                .collect();
            Ok(density(&runs, options)?)
        }
        Plot::Training {
            curves,
            steps,
            log_x,
        } => draw_training(&runs, &names, curves, (*steps, *log_x), options),
        Plot::Frontier { metric } => draw_frontier(&runs, &names, metric, options),
        Plot::Latent { latent: id, log_x } => {
            let run = only(&runs)?;
            let rows = features(run)?;
            if *id as usize >= rows.len() {
                bail!("--latent: found {id}, expected one below {}", rows.len());
            }
            let path = run.features().join("histograms.parquet");
            let bins = &read_histograms(&path, rows.len())?[*id as usize];
            let bin = |bin: &lapidary_features::HistogramBin| ActivationBin {
                lower: bin.lower.into(),
                upper: bin.upper.into(),
                count: bin.count,
            };
            let bins: Vec<ActivationBin> = bins.iter().map(bin).collect();
            if bins.is_empty() {
                bail!("latent {id} never fired, so it has no histogram");
            }
            let scale = match log_x {
                true => Scale::Log,
                false => Scale::Auto,
            };
            Ok(latent(&format!("latent {id}"), &bins, scale, options)?)
        }
        Plot::Scatter { column } => {
            let rows = features(only(&runs)?)?;
            let (_, label, value) = of_name("--column", &COLUMNS, |c| c.0, column)?;
            let x: Vec<f64> = rows.iter().map(|row| row.firing_density).collect();
            let y = rows.iter().map(|row| value(row).unwrap_or(f64::NAN));
            let data = Scatter {
                x_label: "Firing density",
                x: &x,
                x_scale: Scale::Log,
                y_label: label,
                y: &y.collect::<Vec<f64>>(),
                y_scale: Scale::Auto,
            };
            Ok(scatter(&data, options)?)
        }
    }
}

/// The entry of that name.
fn of_name<'a, T>(
    option: &str,
    all: &'a [T],
    name: impl Fn(&T) -> &str,
    wanted: &str,
) -> Result<&'a T> {
    match all.iter().find(|entry| name(entry) == wanted) {
        Some(entry) => Ok(entry),
        None => {
            let names: Vec<&str> = all.iter().map(&name).collect();
            bail!(
                "{option}: found {wanted}, expected one of {}",
                names.join(", ")
            )
        }
    }
}

/// The one run.
fn only(runs: &[RunFolder]) -> Result<&RunFolder> {
    match runs {
        [run] => Ok(run),
        several => bail!(
            "found {} runs, expected one: a figure of latents is of one run",
            several.len()
        ),
    }
}

fn features(run: &RunFolder) -> Result<Vec<FeatureRow>> {
    let path = run.features().join("features.parquet");
    if !path.exists() {
        bail!(
            "{}: is not there; `lapidary features` writes it",
            path.display()
        );
    }
    Ok(read_features(&path)?)
}

fn draw_training(
    runs: &[RunFolder],
    names: &[String],
    curves: &[String],
    (steps, log_x): (bool, bool),
    options: &FigureOptions,
) -> Result<Figure> {
    let mut logs = vec![];
    for run in runs {
        let log = run.read_log();
        if log.is_empty() {
            bail!(
                "{}: found no line of a training log, expected one per logged step",
                run.metrics_log().display()
            );
        }
        let x = log.iter().map(|step| match steps {
            true => step.step as f64,
            false => step.tokens as f64,
        });
        let x: Vec<f64> = x.collect();
        // Only the share of dead latents needs it, and it takes reading the dictionary.
        let d_sae = match curves.iter().any(|curve| curve == "dead") {
            true => d_sae(run)?,
            false => f64::NAN,
        };
        logs.push((x, log, d_sae));
    }
    let mut panels = vec![];
    for curve in curves {
        let (_, label, value) = of_name("--curves", &CURVES, |c| c.0, curve)?;
        let of_run = |(_, log, d_sae): &(Vec<f64>, Vec<StepReport>, f64)| -> Vec<f64> {
            log.iter().map(|step| value(step, *d_sae)).collect()
        };
        panels.push((*label, logs.iter().map(of_run).collect::<Vec<Vec<f64>>>()));
    }
    let lines: Vec<Vec<Curve<'_>>> = panels
        .iter()
        .map(|(_, values)| {
            let of_run = values.iter().zip(&logs).zip(names);
            of_run
                .map(|((y, (x, ..)), run)| Curve { run, x, y })
                .collect()
        })
        .collect();
    let panels: Vec<Panel<'_>> = panels
        .iter()
        .zip(&lines)
        .map(|((metric, _), curves)| Panel {
            metric,
            scale: Scale::Auto,
            curves,
        })
        .collect();
    let x_label = if steps {
        "Training steps"
    } else {
        "Training tokens"
    };
    Ok(training(&panels, x_label, log_x, options)?)
}

/// The run's number of latents.
fn d_sae(run: &RunFolder) -> Result<f64> {
    let folder = run.dictionary();
    let dictionary = open_dictionary(&folder, DictionaryOptions::default(), &Device::flex())?;
    Ok(dictionary.coder.d_sae() as f64)
}

fn draw_frontier(
    runs: &[RunFolder],
    names: &[String],
    metric: &str,
    options: &FigureOptions,
) -> Result<Figure> {
    let (wanted, _) = {
        let all: Vec<(&str, ())> = Metrics::METRICS.iter().map(|m| (m.name, ())).collect();
        *of_name("--metric", &all, |m| m.0, metric)?
    };
    let mut points = vec![];
    for run in runs {
        let Some(metrics) = run.read_metrics()? else {
            bail!(
                "{}: is not there; `lapidary eval --out` writes it",
                run.metrics().display()
            );
        };
        let value = |name: &str| metrics.named(&[name]).next().and_then(|(_, value)| value);
        let known = |name: &str| {
            let path = run.metrics();
            value(name).with_context(|| format!("{}: has no {name}", path.display()))
        };
        let (l0, value) = (known("l0")?, known(wanted)?);
        let folder = run.dictionary();
        let dictionary = open_dictionary(&folder, DictionaryOptions::default(), &Device::flex())?;
        let trained = dictionary.provenance.training_architecture.as_deref();
        let name = trained.unwrap_or(dictionary.coder.architecture().name());
        let architecture = match dictionary.transcodes() {
            true => format!("{name} transcoder"),
            false => name.to_owned(),
        };
        let at = dictionary.sites().read().join(", ");
        points.push((architecture, at, l0, value));
    }
    // Coders of different activations are not of one frontier.
    let one_place = points.windows(2).all(|two| two[0].1 == two[1].1);
    let points = points.into_iter().map(|(architecture, at, l0, value)| {
        let group = match one_place {
            true => architecture,
            false => format!("{architecture}, {at}"),
        };
        (group, l0, value)
    });
    let points: Vec<(String, f64, f64)> = points.collect();
    let points: Vec<FrontierPoint<'_>> = points
        .iter()
        .zip(names)
        .map(|((architecture, l0, metric), run)| FrontierPoint {
            run,
            architecture,
            l0: *l0,
            metric: *metric,
        })
        .collect();
    let label = match wanted {
        "fvu" => "FVU",
        "ce_loss_score" => "CE loss score",
        other => other,
    };
    Ok(frontier(
        &points,
        label,
        (Scale::Auto, Scale::Auto),
        options,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_by_what_differs() {
        let named = |paths: &[&str]| {
            let runs: Vec<RunFolder> = paths.iter().map(|p| RunFolder::new(Path::new(p))).collect();
            names(&runs)
        };
        assert_eq!(named(&["a/b/c", "a/b/d"]), ["c", "d"]);
        assert_eq!(named(&["a/x/run", "a/y/run"]), ["x/run", "y/run"]);
        assert_eq!(named(&["/some/where/run"]), ["run"]);
        assert_eq!(named(&["a", "a/b"]), ["a", "a/b"]);
    }
}
