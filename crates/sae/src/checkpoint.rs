//! The checkpoint folder: of each coder weights, Adam's moments, counters and who is dead, and the state of the source, so
//! that a resumed run computes the same bits as one that never stopped.
//!
//! `manifest.json` (format version, steps), of each coder `coder-N/config.toml` (the resolved recipe) and
//! `coder-N/state.safetensors`, and `source/`. Random numbers are drawn only by the initialization, which is over, and by
//! the source, which saves its generator.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use lapidary_activations::BatchSource;
use lapidary_kernels::Moments;
use serde::{Deserialize, Serialize};

use crate::coder::SKIP;
use crate::coders::ThresholdAverage;
use crate::config::RunConfig;
use crate::cross_layer;
#[cfg(doc)]
use crate::ends::Ends;
use crate::error::SaeError;
use crate::files::{replace_folder, standing, write_synced};
use crate::firing::Firing;
use crate::parameters::{AnyParameter, Parameter};
use crate::run::TrainingRun;
use crate::tensors::{TensorReader, TensorWriter, Tensors};
use crate::train::{Progress, Trainer};

/// Version of the folder's layout.
const FORMAT_VERSION: u64 = 2;
const FORMAT: &str = "lapidary checkpoint";
const MANIFEST: &str = "manifest.json";

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: String,
    format_version: u64,
    lapidary_version: String,
    coders: Vec<CoderManifest>,
}

/// What is read of a manifest before its version is known.
#[derive(Deserialize)]
struct Version {
    format: String,
    format_version: u64,
}

#[derive(Serialize, Deserialize)]
struct CoderManifest {
    step: u64,
    tokens: u64,
    d_in: usize,
    d_out: usize,
    d_sae: usize,
}

/// Whether there is a checkpoint in `dir`.
#[must_use]
pub fn exists(dir: &Path) -> bool {
    standing(dir, MANIFEST).join(MANIFEST).exists()
}

/// The resolved recipes of the checkpoint in `dir`, from which to build the source that
/// [`TrainingRun::resume`] wants.
///
/// # Errors
/// There is no checkpoint, or its manifest or a recipe is damaged.
pub fn recipes(dir: &Path) -> Result<Vec<RunConfig>, SaeError> {
    let dir = &standing(dir, MANIFEST);
    let coders = manifest(dir)?.coders;
    let recipe = |number| RunConfig::load(&coder_folder(dir, number).join("config.toml"), &[]);
    (0..coders.len()).map(recipe).collect()
}

fn coder_folder(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("coder-{number}"))
}

fn manifest(dir: &Path) -> Result<Manifest, SaeError> {
    let path = dir.join(MANIFEST);
    let text = fs::read_to_string(&path).map_err(|e| SaeError::read(&path, e))?;
    let damaged = |e: serde_json::Error| {
        SaeError::format(&path, "manifest", e.to_string(), "a checkpoint's manifest")
    };
    let version: Version = serde_json::from_str(&text).map_err(damaged)?;
    if version.format != FORMAT || version.format_version != FORMAT_VERSION {
        return Err(SaeError::format(
            &path,
            "format, format_version",
            format!("\"{}\", {}", version.format, version.format_version),
            format!("\"{FORMAT}\", {FORMAT_VERSION}"),
        ));
    }
    serde_json::from_str(&text).map_err(damaged)
}

pub(crate) fn save(run: &TrainingRun, dir: &Path) -> Result<(), SaeError> {
    let coders = run.trainers.iter().map(|trainer| {
        let coder = trainer.coder();
        CoderManifest {
            step: trainer.progress.step,
            tokens: trainer.progress.tokens,
            d_in: coder.d_in(),
            d_out: coder.d_out(),
            d_sae: coder.d_sae(),
        }
    });
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        lapidary_version: env!("CARGO_PKG_VERSION").to_owned(),
        coders: coders.collect(),
    };
    replace_folder(dir, |folder| {
        let failed = |e| SaeError::write(folder, e);
        for (number, trainer) in run.trainers.iter().enumerate() {
            let place = coder_folder(folder, number);
            fs::create_dir(&place).map_err(failed)?;
            state(trainer)?.write(&place.join("state.safetensors"), None)?;
            let recipe = trainer.config.to_toml();
            write_synced(&place.join("config.toml"), recipe.as_bytes()).map_err(failed)?;
        }
        let source = folder.join("source");
        fs::create_dir(&source).map_err(failed)?;
        run.source.save(&source)?;
        let text = serde_json::to_string_pretty(&manifest).expect("strings and numbers");
        write_synced(&folder.join(MANIFEST), text.as_bytes()).map_err(failed)
    })
}

fn state(trainer: &Trainer) -> Result<TensorWriter, SaeError> {
    let mut state = TensorWriter::default();
    for (name, parameter) in trainer.parameters.iter() {
        match parameter {
            AnyParameter::Matrix(p) => write_parameter(&mut state, name, p)?,
            AnyParameter::Vector(p) => write_parameter(&mut state, name, p)?,
        }
    }
    let t = trainer.progress.threshold;
    state.f64("threshold_average", &[t.sum, t.weight]);
    state.u64("tokens_since_fired", &trainer.firing.since);
    let dead: Vec<u64> = trainer.firing.dead.iter().map(|i| u64::from(*i)).collect();
    state.u64("dead", &dead);
    Ok(state)
}

fn write_parameter<const D: usize>(
    out: &mut TensorWriter,
    name: &str,
    parameter: &Parameter<D>,
) -> Result<(), SaeError> {
    let (value, moments) = parameter.parts();
    out.tensor(name, value)?;
    out.tensor(&format!("{name}.m"), &moments.m)?;
    out.tensor(&format!("{name}.v"), &moments.v)
}

fn read_parameter<const D: usize>(
    tensors: &Tensors<'_>,
    name: &str,
    shape: [usize; D],
    device: &Device,
) -> Result<Parameter<D>, SaeError> {
    let read = |name: &str| -> Result<Tensor<D>, SaeError> { tensors.tensor(name, shape, device) };
    let moments = Moments {
        m: read(&format!("{name}.m"))?,
        v: read(&format!("{name}.v"))?,
    };
    Ok(Parameter::new(read(name)?, moments))
}

/// The coders of the checkpoint in `dir`, whose recipes are `recipes`, for activations of `widths` (see [`Ends::widths`]); the source is brought
/// to where it was.
pub(crate) fn load(
    dir: &Path,
    recipes: Vec<RunConfig>,
    widths: &[[usize; 3]],
    source: &mut dyn BatchSource,
    device: &Device,
) -> Result<Vec<Trainer>, SaeError> {
    let dir = &standing(dir, MANIFEST);
    let coders = manifest(dir)?.coders;
    let trainers = recipes.into_iter().zip(widths).zip(&coders).enumerate();
    let trainers = trainers
        .map(|(number, ((config, width), coder))| {
            load_coder(dir, number, coder, config, *width, device)
        })
        .collect::<Result<_, _>>()?;
    source.restore(&dir.join("source"))?;
    Ok(trainers)
}

fn load_coder(
    dir: &Path,
    number: usize,
    manifest: &CoderManifest,
    config: RunConfig,
    [width, read, written]: [usize; 3],
    device: &Device,
) -> Result<Trainer, SaeError> {
    let (d_in, d_out, d_sae) = (manifest.d_in, manifest.d_out, manifest.d_sae);
    let check = |field: &str, found: usize, expected: usize| {
        if found == expected {
            return Ok(());
        }
        Err(SaeError::format(
            &dir.join(MANIFEST),
            field,
            found.to_string(),
            expected.to_string(),
        ))
    };
    check("d_in", d_in, read)?;
    check("d_out", d_out, written)?;
    let (layers, latents) = (config.layers(), config.resolve(width)?.coder.d_sae);
    check("d_sae", d_sae, latents.unwrap_or(0) * layers.unwrap_or(1))?;

    let state_path = coder_folder(dir, number).join("state.safetensors");
    let file = TensorReader::open(&state_path)?;
    let tensors = file.tensors()?;
    let mut shapes = match layers {
        Some(n) => {
            let each = [d_in / n, d_out / n, d_sae / n];
            cross_layer::shapes(config.architecture(), n, each)
        }
        None => config.architecture().method().shapes(d_in, d_out, d_sae),
    };
    if config.coder.skip_connection {
        shapes.push((SKIP, vec![d_out, d_in]));
    }
    let read = |(name, shape): (&'static str, Vec<usize>)| {
        let parameter = match shape[..] {
            [rows, columns] => {
                AnyParameter::Matrix(read_parameter(&tensors, name, [rows, columns], device)?)
            }
            [length] => AnyParameter::Vector(read_parameter(&tensors, name, [length], device)?),
            _ => unreachable!("weights are matrices and vectors"),
        };
        Ok::<_, SaeError>((name, parameter))
    };
    let parameters = shapes.into_iter().map(read).collect::<Result<_, _>>()?;
    let threshold = tensors.f64("threshold_average", 2)?;
    let since = tensors.u64("tokens_since_fired", d_sae)?;
    let dead_count = tensors.shape("dead").map_or(0, |s| s.iter().product());
    let mut dead = Vec::new();
    for latent in tensors.u64("dead", dead_count)? {
        match u32::try_from(latent) {
            Ok(i) if (i as usize) < d_sae => dead.push(i),
            _ => {
                return Err(SaeError::format(
                    &state_path,
                    "tensor `dead`",
                    latent.to_string(),
                    format!("a latent below {d_sae}"),
                ));
            }
        }
    }
    Ok(Trainer {
        config,
        device: device.clone(),
        parameters,
        progress: Progress {
            step: manifest.step,
            tokens: manifest.tokens,
            threshold: ThresholdAverage {
                sum: threshold[0],
                weight: threshold[1],
            },
        },
        firing: Firing::restore(since, dead, layers.unwrap_or(1), device),
    })
}
