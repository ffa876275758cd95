//! The checkpoint folder: weights, Adam's moments, counters, who is dead, and the state of the source, so that a
//! resumed run computes the same bits as one that never stopped.
//!
//! `manifest.json` (format version, step), `config.toml` (the resolved recipe), `state.safetensors`, `source/`.
//! Random numbers are drawn only by the initialization, which is over, and by the source, which saves its generator.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use lapidary_activations::BatchSource;
use lapidary_kernels::Moments;
use serde::{Deserialize, Serialize};

use crate::coders::ThresholdAverage;
use crate::config::RunConfig;
use crate::error::SaeError;
use crate::files::{replace_folder, standing, write_synced};
use crate::firing::Firing;
use crate::parameters::{AnyParameter, Parameter, Parameters};
use crate::tensors::{TensorReader, TensorWriter, Tensors};
use crate::train::{Progress, Trainer};

/// Version of the folder's layout.
const FORMAT_VERSION: u64 = 1;
const FORMAT: &str = "lapidary checkpoint";
const MANIFEST: &str = "manifest.json";

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: String,
    format_version: u64,
    lapidary_version: String,
    step: u64,
    tokens: u64,
    d_in: usize,
    d_sae: usize,
}

/// What a checkpoint gives back.
pub(crate) struct State {
    pub(crate) config: RunConfig,
    pub(crate) parameters: Parameters,
    pub(crate) progress: Progress,
    pub(crate) firing: Firing,
}

/// Whether there is a checkpoint in `dir`.
#[must_use]
pub fn exists(dir: &Path) -> bool {
    standing(dir, MANIFEST).join(MANIFEST).exists()
}

/// The resolved recipe of the checkpoint in `dir`, from which to build the source that [`Trainer::resume`] wants.
///
/// # Errors
/// There is no checkpoint or its recipe is damaged.
pub fn config(dir: &Path) -> Result<RunConfig, SaeError> {
    RunConfig::load(&standing(dir, MANIFEST).join("config.toml"), &[])
}

pub(crate) fn save(trainer: &Trainer, dir: &Path) -> Result<(), SaeError> {
    let coder = trainer.coder();
    let (d_sae, d_in) = (coder.d_sae(), coder.d_in());
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        lapidary_version: env!("CARGO_PKG_VERSION").to_owned(),
        step: trainer.progress.step,
        tokens: trainer.progress.tokens,
        d_in,
        d_sae,
    };
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
    replace_folder(dir, |folder| {
        let put = |name: &str, bytes: &[u8]| {
            write_synced(&folder.join(name), bytes).map_err(|e| SaeError::write(folder, e))
        };
        state.write(&folder.join("state.safetensors"), None)?;
        put("config.toml", trainer.config.to_toml().as_bytes())?;
        let source = folder.join("source");
        fs::create_dir(&source).map_err(|e| SaeError::write(folder, e))?;
        trainer.source.save(&source)?;
        let text = serde_json::to_string_pretty(&manifest).expect("strings and numbers");
        put(MANIFEST, text.as_bytes())
    })
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

pub(crate) fn load(
    dir: &Path,
    source: &mut dyn BatchSource,
    device: &Device,
) -> Result<State, SaeError> {
    let dir = &standing(dir, MANIFEST);
    let path = dir.join(MANIFEST);
    let text = fs::read_to_string(&path).map_err(|e| SaeError::read(&path, e))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|e| {
        SaeError::format(&path, "manifest", e.to_string(), "a checkpoint's manifest")
    })?;
    if manifest.format != FORMAT || manifest.format_version != FORMAT_VERSION {
        return Err(SaeError::format(
            &path,
            "format, format_version",
            format!("\"{}\", {}", manifest.format, manifest.format_version),
            format!("\"{FORMAT}\", {FORMAT_VERSION}"),
        ));
    }
    let config = config(dir)?;
    let (d_in, d_sae) = (manifest.d_in, manifest.d_sae);
    let check = |field: &str, found: usize, expected: usize| {
        if found == expected {
            return Ok(());
        }
        Err(SaeError::format(
            &path,
            field,
            found.to_string(),
            expected.to_string(),
        ))
    };
    check("d_in", d_in, source.d_in())?;
    check(
        "d_sae",
        d_sae,
        config.resolve(d_in)?.coder.d_sae.unwrap_or(0),
    )?;

    let state_path = dir.join("state.safetensors");
    let file = TensorReader::open(&state_path)?;
    let tensors = file.tensors()?;
    let shapes = config.architecture().method().shapes(d_in, d_sae);
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
    source.restore(&dir.join("source"))?;
    Ok(State {
        config,
        parameters,
        progress: Progress {
            step: manifest.step,
            tokens: manifest.tokens,
            threshold: ThresholdAverage {
                sum: threshold[0],
                weight: threshold[1],
            },
        },
        firing: Firing::restore(since, dead, device),
    })
}
