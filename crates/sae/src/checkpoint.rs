//! The checkpoint folder: of each coder weights, Adam's moments, counters and who is dead, and the
//! state of the source, so that a resumed run computes the same bits as one that never stopped.
//!
//! `manifest.json` (format version, steps, length and checksum of every file, and a checksum of
//! itself), of each coder `coder-N/config.toml` (the resolved recipe) and
//! `coder-N/state.safetensors`, and `source/`. Random numbers are drawn only by the initialization,
//! which is over, and by the source, which saves its generator.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use lapidary_activations::BatchSource;
use lapidary_coder::{AnyCoder, Coder, WeightKey, read_tensor, write_tensor};
use lapidary_io::tensors::{TensorWriter, Tensors};
use lapidary_io::{
    Checksum, IoError, existing, files_below, read_text, replace_folder, sealed_json, unseal,
    write_synced,
};
use lapidary_kernels::{MappedFile, Moments};
use serde::{Deserialize, Serialize};

use crate::architectures::ThresholdAverage;
#[cfg(doc)]
use crate::batch::SiteIndices;
use crate::divergence::Divergence;
use crate::error::SaeError;
use crate::firing::Firing;
use crate::l0_control::L0Control;
use crate::parameters::{AnyParameter, Parameter};
use crate::recipe::Recipe;
use crate::trainer::{Progress, Trainer, new_encoder_states};

/// Version of the folder's layout. Checkpoints of version 2 have no checksums and are still read.
const FORMAT_VERSION: u64 = 3;
const WITHOUT_CHECKSUMS: u64 = 2;
const FORMAT: &str = "lapidary checkpoint";
const MANIFEST: &str = "manifest.json";
const RECIPE: &str = "config.toml";
const STATE: &str = "state.safetensors";
/// The tensor of what `coder.target_l0` has come to.
const L0_CONTROL: &str = "l0_control";
/// That of what was seen of a coder that may diverge.
const DIVERGENCE: &str = "divergence";
/// What the sources of activations save.
const SOURCE_FILES: [&str; 3] = ["stream.json", "buffer.safetensors", "sequences.json"];

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: String,
    format_version: u64,
    lapidary_version: String,
    coders: Vec<CoderManifest>,
    /// Every other file, by its path with `/`.
    #[serde(default)]
    files: BTreeMap<String, FileManifest>,
}

#[derive(Serialize, Deserialize)]
struct FileManifest {
    bytes: u64,
    /// XXH64, as `xxh64sum` prints it.
    xxh64: String,
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
    existing(dir, MANIFEST).join(MANIFEST).exists()
}

/// The resolved recipes of the checkpoint in `dir`, from which to build the source that
/// [`TrainingRun::resume`](crate::TrainingRun::resume) wants.
///
/// # Errors
/// There is no checkpoint, or its manifest or a recipe is damaged.
pub fn recipes(dir: &Path) -> Result<Vec<Recipe>, SaeError> {
    let dir = &existing(dir, MANIFEST);
    let manifest = manifest(dir)?;
    verify(dir, &manifest, |file| file.ends_with(RECIPE))?;
    let recipe = |number| Recipe::load(&coder_folder(dir, number).join(RECIPE), &[]);
    (0..manifest.coders.len()).map(recipe).collect()
}

/// Whether a checkpoint has a file of this name, relative to its folder.
#[must_use]
pub fn is_ours(file: &Path) -> bool {
    let parts: Vec<_> = file.iter().map(|part| part.to_string_lossy()).collect();
    match parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>()[..] {
        [name] => name == MANIFEST,
        ["source", name] => SOURCE_FILES.contains(&name),
        [coder, name] => {
            let number = coder.strip_prefix("coder-");
            number.is_some_and(|n| n.parse::<usize>().is_ok()) && [RECIPE, STATE].contains(&name)
        }
        _ => false,
    }
}

/// Compares the files that `is_read` selects with what the manifest says of them.
fn verify(dir: &Path, manifest: &Manifest, is_read: impl Fn(&str) -> bool) -> Result<(), SaeError> {
    for (name, expected) in manifest.files.iter().filter(|(name, _)| is_read(name)) {
        let path = dir.join(name);
        let found = FileManifest::of(&path).map_err(|e| IoError::read(&path)(e))?;
        if found.bytes != expected.bytes {
            let [found, expected] =
                [found.bytes, expected.bytes].map(|bytes| format!("{bytes} bytes"));
            return Err(IoError::format(&path, "length", found, expected).into());
        }
        if found.xxh64 != expected.xxh64 {
            let expected = format!("{}; the file is damaged", expected.xxh64);
            return Err(IoError::format(&path, "XXH64", found.xxh64, expected).into());
        }
    }
    Ok(())
}

impl FileManifest {
    fn of(path: &Path) -> io::Result<Self> {
        let mut file = fs::File::open(path)?;
        let (mut sum, mut bytes) = (Checksum::default(), 0);
        let mut part = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut part)?;
            if n == 0 {
                break;
            }
            sum.update(&part[..n]);
            bytes += n as u64;
        }
        Ok(Self {
            bytes,
            xxh64: format!("{:016x}", sum.finish()),
        })
    }
}

fn coder_folder(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("coder-{number}"))
}

fn manifest(dir: &Path) -> Result<Manifest, SaeError> {
    let path = dir.join(MANIFEST);
    let text = read_text(&path)?;
    let damaged = |e: serde_json::Error| {
        IoError::format(&path, "manifest", e.to_string(), "a checkpoint's manifest")
    };
    let version: Version = serde_json::from_str(&text).map_err(damaged)?;
    let known = [WITHOUT_CHECKSUMS, FORMAT_VERSION];
    if version.format != FORMAT || !known.contains(&version.format_version) {
        return Err(IoError::format(
            &path,
            "format, format_version",
            format!("\"{}\", {}", version.format, version.format_version),
            format!(
                "\"{FORMAT}\", {FORMAT_VERSION}: was it written by a newer version of lapidary?"
            ),
        )
        .into());
    }
    let manifest: Manifest = serde_json::from_str(&text).map_err(damaged)?;
    match (version.format_version, manifest.files.is_empty()) {
        (WITHOUT_CHECKSUMS, true) => {}
        (FORMAT_VERSION, false) => unseal(&path, &text)?,
        (version, _) => {
            let found = format!("version {version} with {} files", manifest.files.len());
            let expected = format!("checksums of all files from version {FORMAT_VERSION} on");
            return Err(IoError::format(&path, "files", found, expected).into());
        }
    }
    // Names become paths: one that leads out of the folder, or to a device, is never opened.
    if let Some(name) = manifest.files.keys().find(|n| !is_ours(Path::new(n))) {
        let expected = "the name of a checkpoint's file";
        return Err(IoError::format(&path, "files", format!("{name:?}"), expected).into());
    }
    Ok(manifest)
}

pub(crate) fn save(
    trainers: &[Trainer],
    source: &dyn BatchSource,
    dir: &Path,
) -> Result<(), SaeError> {
    let coders = trainers.iter().map(|trainer| {
        let coder = trainer.coder();
        CoderManifest {
            step: trainer.progress.step,
            tokens: trainer.progress.tokens,
            d_in: coder.d_in(),
            d_out: coder.d_out(),
            d_sae: coder.d_sae(),
        }
    });
    let mut manifest = Manifest {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        lapidary_version: env!("CARGO_PKG_VERSION").to_owned(),
        coders: coders.collect(),
        files: BTreeMap::new(),
    };
    replace_folder(dir, is_ours, |folder| -> Result<(), SaeError> {
        let failed = |e| IoError::write(folder)(e);
        for (number, trainer) in trainers.iter().enumerate() {
            let place = coder_folder(folder, number);
            fs::create_dir(&place).map_err(failed)?;
            state(trainer)?.write(&place.join(STATE), None)?;
            let recipe = trainer.recipe.recipe().to_toml();
            write_synced(&place.join(RECIPE), recipe.as_bytes()).map_err(failed)?;
        }
        let beside = folder.join("source");
        fs::create_dir(&beside).map_err(failed)?;
        source.save(&beside)?;
        for file in files_below(folder)? {
            let sum = FileManifest::of(&folder.join(&file)).map_err(failed)?;
            let name: Vec<_> = file.iter().map(|part| part.to_string_lossy()).collect();
            manifest.files.insert(name.join("/"), sum);
        }
        let text = sealed_json(&manifest);
        Ok(write_synced(&folder.join(MANIFEST), text.as_bytes()).map_err(failed)?)
    })
}

fn state(trainer: &Trainer) -> Result<TensorWriter<'static>, SaeError> {
    let mut state = TensorWriter::default();
    for (name, parameter) in trainer.parameters.iter() {
        match parameter {
            AnyParameter::Matrix(p) => write_parameter(&mut state, name, p)?,
            AnyParameter::Vector(p) => write_parameter(&mut state, name, p)?,
        }
    }
    let t = trainer.progress.threshold;
    state.f64("threshold_average", &[t.sum, t.weight]);
    let control = trainer.progress.l0_control;
    if let Some(error) = control.last_error {
        state.f64(L0_CONTROL, &[control.log_factor, error]);
    }
    let seen = trainer.progress.divergence;
    let was_sound = u64::from(seen.was_sound);
    state.u64(
        DIVERGENCE,
        &[was_sound, seen.high, seen.restarts, seen.started],
    );
    state.u64("tokens_since_fired", &trainer.firing.since);
    let dead: Vec<u64> = trainer.firing.dead.iter().map(|i| u64::from(*i)).collect();
    state.u64("dead", &dead);
    Ok(state)
}

fn write_parameter<const D: usize>(
    out: &mut TensorWriter<'_>,
    name: WeightKey,
    parameter: &Parameter<D>,
) -> Result<(), SaeError> {
    let (value, moments) = parameter.parts();
    write_tensor(out, &name.to_string(), value)?;
    write_tensor(out, &format!("{name}.m"), &moments.m)?;
    write_tensor(out, &format!("{name}.v"), &moments.v)?;
    Ok(())
}

fn read_parameter<const D: usize>(
    tensors: &Tensors<'_>,
    name: WeightKey,
    shape: [usize; D],
    device: &Device,
) -> Result<Parameter<D>, SaeError> {
    let read = |name: &str| -> Result<Tensor<D>, SaeError> {
        Ok(read_tensor(tensors, name, shape, device)?)
    };
    let moments = Moments {
        m: read(&format!("{name}.m"))?,
        v: read(&format!("{name}.v"))?,
    };
    Ok(Parameter::new(read(&name.to_string())?, moments))
}

/// The coders of the checkpoint in `dir`, whose recipes are `recipes`, for activations of `widths`
/// (see [`SiteIndices::widths`]); the source is brought to where it was.
pub(crate) fn load(
    dir: &Path,
    recipes: Vec<Recipe>,
    widths: &[[usize; 3]],
    source: &mut dyn BatchSource,
    device: &Device,
) -> Result<Vec<Trainer>, SaeError> {
    let dir = &existing(dir, MANIFEST);
    let manifest = manifest(dir)?;
    verify(dir, &manifest, |file| !file.ends_with(RECIPE))?;
    let coders = manifest.coders;
    let trainers = recipes.into_iter().zip(widths).zip(&coders).enumerate();
    let trainers = trainers
        .map(|(number, ((recipe, width), coder))| {
            load_coder(dir, number, coder, &recipe, *width, device)
        })
        .collect::<Result<_, _>>()?;
    source.restore(&dir.join("source"))?;
    Ok(trainers)
}

fn load_coder(
    dir: &Path,
    number: usize,
    manifest: &CoderManifest,
    recipe: &Recipe,
    [width, read, written]: [usize; 3],
    device: &Device,
) -> Result<Trainer, SaeError> {
    let (d_in, d_out, d_sae) = (manifest.d_in, manifest.d_out, manifest.d_sae);
    let check = |field: &str, found: usize, expected: usize| {
        if found == expected {
            return Ok(());
        }
        Err(IoError::format(
            &dir.join(MANIFEST),
            field,
            found.to_string(),
            expected.to_string(),
        ))
    };
    check("d_in", d_in, read)?;
    check("d_out", d_out, written)?;
    let recipe = recipe.resolve(width)?;
    let layers = recipe.sites().layers();
    check("d_sae", d_sae, recipe.coder.d_sae * layers)?;

    let state_path = coder_folder(dir, number).join(STATE);
    let bytes = MappedFile::open(&state_path).map_err(IoError::read(&state_path))?;
    let tensors = Tensors::parse(&state_path, &bytes)?;
    let shapes = AnyCoder::shapes(
        recipe.coder.architecture,
        (layers > 1).then_some(layers),
        [d_in, d_out, d_sae],
        recipe.coder.skip_connection,
    );
    let read = |(name, shape): (WeightKey, Vec<usize>)| {
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
    let mut l0_control = L0Control::default();
    if tensors.shape(L0_CONTROL).is_some() {
        let numbers = tensors.f64(L0_CONTROL, 2)?;
        l0_control.log_factor = numbers[0];
        l0_control.last_error = Some(numbers[1]);
    }
    let mut divergence = Divergence::default();
    if tensors.shape(DIVERGENCE).is_some() {
        let numbers = tensors.u64(DIVERGENCE, 4)?;
        divergence = Divergence {
            was_sound: numbers[0] != 0,
            high: numbers[1],
            restarts: numbers[2],
            started: numbers[3].min(manifest.step),
        };
    }
    let since = tensors.u64("tokens_since_fired", d_sae)?;
    let dead_count = tensors.shape("dead").map_or(0, |s| s.iter().product());
    let mut dead = Vec::new();
    for latent in tensors.u64("dead", dead_count)? {
        match u32::try_from(latent) {
            Ok(i) if (i as usize) < d_sae => dead.push(i),
            _ => {
                return Err(IoError::format(
                    &state_path,
                    "tensor `dead`",
                    latent.to_string(),
                    format!("a latent below {d_sae}"),
                )
                .into());
            }
        }
    }
    Ok(Trainer {
        recipe,
        device: device.clone(),
        parameters,
        progress: Progress {
            step: manifest.step,
            tokens: manifest.tokens,
            threshold: ThresholdAverage {
                sum: threshold[0],
                weight: threshold[1],
            },
            l0_control,
            divergence,
        },
        firing: Firing::restore(since, dead, layers, device),
        encoder_states: new_encoder_states(layers),
    })
}
