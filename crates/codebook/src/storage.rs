//! The files of trained codebooks (`codebooks.json`, `codebooks.safetensors`) and of checkpoints
//! (`manifest.json`, `state.safetensors`).

use crate::config::CodebookConfig;
use crate::training::CodebookTrainer;
use crate::{Codebook, CodebookError, CodebookOptions, Codebooks, Placed};
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_io::tensors::{TensorWriter, Tensors};
use lapidary_io::{
    Checksum, IoError, existing, read_json, read_text, replace_folder, sealed_json, unseal,
    write_atomically, write_synced,
};
use lapidary_kernels::MappedFile;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What the codebooks of a run are.
pub const DESCRIPTION: &str = "codebooks.json";
/// Their codes, a tensor for each under the name of its hook point, `[groups * n_codes, d]`.
pub const CODES: &str = "codebooks.safetensors";
const FORMAT: &str = "lapidary codebooks";
const CHECKPOINT_FORMAT: &str = "lapidary codebook checkpoint";
const FORMAT_VERSION: u64 = 1;
const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.safetensors";

#[derive(Serialize, Deserialize)]
struct Description {
    format: String,
    format_version: u64,
    codebooks: Vec<Described>,
}

#[derive(Serialize, Deserialize)]
struct Described {
    hook_point: String,
    groups: usize,
    d: usize,
    #[serde(flatten)]
    options: CodebookOptions,
}

/// Writes codebooks into a folder.
///
/// # Errors
/// A file cannot be written.
pub fn save_codebooks(codebooks: &Codebooks, folder: &Path) -> Result<(), CodebookError> {
    let mut tensors = TensorWriter::default();
    let mut described = vec![];
    for Placed { at, codebook } in codebooks.placed() {
        let codes = codebook.codes();
        let values: Vec<f32> = codes.to_data().iter::<f32>().collect();
        tensors.f32(&at.to_string(), &codes.dims(), &values);
        described.push(Described {
            hook_point: at.to_string(),
            groups: codebook.groups(),
            d: codebook.d(),
            options: codebook.options().clone(),
        });
    }
    let description = Description {
        format: FORMAT.into(),
        format_version: FORMAT_VERSION,
        codebooks: described,
    };
    tensors.write(&folder.join(CODES), None)?;
    let text = serde_json::to_string_pretty(&description).expect("plain JSON") + "\n";
    Ok(write_atomically(
        &folder.join(DESCRIPTION),
        text.as_bytes(),
    )?)
}

/// Reads the codebooks of a folder.
///
/// # Errors
/// A file is missing, damaged, or of another version, or the two files disagree.
pub fn load_codebooks(folder: &Path, device: &Device) -> Result<Codebooks, CodebookError> {
    let path = folder.join(DESCRIPTION);
    let description: Description = read_json(&path)?;
    check_format(
        &path,
        (&description.format, description.format_version),
        FORMAT,
    )?;
    let codes = folder.join(CODES);
    let bytes = MappedFile::open(&codes).map_err(|e| IoError::read(&codes)(e))?;
    let tensors = Tensors::parse(&codes, &bytes)?;
    let mut placed = vec![];
    for d in description.codebooks {
        let rows = d.groups.saturating_mul(d.options.n_codes);
        let values = tensors.f32(&d.hook_point, &[rows, d.d])?;
        let data = TensorData::new(values, [rows, d.d]);
        let codebook = Codebook::new(d.options, d.groups, Tensor::from_data(data, device));
        placed.push(Placed {
            at: d.hook_point.parse()?,
            codebook: codebook.map_err(|e| e.of_file(&path))?,
        });
    }
    Codebooks::new(placed).map_err(|e| e.of_file(&path))
}

fn check_format(path: &Path, found: (&str, u64), expected: &str) -> Result<(), IoError> {
    if found == (expected, FORMAT_VERSION) {
        return Ok(());
    }
    Err(IoError::format(
        path,
        "format, format_version",
        format!("\"{}\", {}", found.0, found.1),
        format!("\"{expected}\", {FORMAT_VERSION}: was it written by a newer version of lapidary?"),
    ))
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: String,
    format_version: u64,
    step: u64,
    /// The config, every default filled in.
    config: String,
    /// XXH64 of the state, as `xxh64sum` prints it.
    xxh64: String,
}

/// Whether a checkpoint has a file of this name, relative to its folder.
pub fn is_checkpoint_file(file: &Path) -> bool {
    [MANIFEST, STATE].iter().any(|name| file == Path::new(name))
}

/// Whether there is a checkpoint of a codebook training in a folder.
pub fn has_checkpoint(folder: &Path) -> bool {
    let folder = existing(folder, MANIFEST);
    folder.join(MANIFEST).exists() && folder.join(STATE).exists()
}

/// Writes a checkpoint, in place of an older one.
///
/// # Errors
/// The folder cannot be written to, or holds other files.
pub fn save_checkpoint(trainer: &CodebookTrainer, folder: &Path) -> Result<(), CodebookError> {
    replace_folder(folder, is_checkpoint_file, |folder| {
        let state = folder.join(STATE);
        trainer.state().write(&state, None)?;
        let manifest = Manifest {
            format: CHECKPOINT_FORMAT.into(),
            format_version: FORMAT_VERSION,
            step: trainer.step_count(),
            config: trainer.config().to_toml(),
            xxh64: checksum(&state)?,
        };
        let path = folder.join(MANIFEST);
        let text = sealed_json(&manifest);
        Ok(write_synced(&path, text.as_bytes()).map_err(|e| IoError::write(&path)(e))?)
    })
}

/// Brings a trainer that was started with the same config to the state of a checkpoint. With
/// `extend`, the number of steps may differ.
///
/// # Errors
/// The checkpoint is damaged, or of another config: the error names the first setting that differs.
/// The checkpoint has more steps than the trainer is to do.
pub fn load_checkpoint(
    trainer: &mut CodebookTrainer,
    folder: &Path,
    extend: bool,
) -> Result<(), CodebookError> {
    let folder = existing(folder, MANIFEST);
    let path = folder.join(MANIFEST);
    let text = read_text(&path)?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|source| IoError::Json {
        path: path.clone(),
        source,
    })?;
    check_format(
        &path,
        (&manifest.format, manifest.format_version),
        CHECKPOINT_FORMAT,
    )?;
    unseal(&path, &text)?;
    let saved = CodebookConfig::parse(&path.display().to_string(), &manifest.config, &[])?;
    saved.check_same_training(trainer.config(), &path, extend)?;
    let steps = trainer.config().steps;
    if manifest.step > steps {
        let expected = format!("at least the {} steps of the checkpoint", manifest.step);
        return Err(CodebookError::value("training.steps", steps, expected));
    }
    let state = folder.join(STATE);
    let found = checksum(&state)?;
    if found != manifest.xxh64 {
        let expected = format!("{}; the file is damaged", manifest.xxh64);
        return Err(IoError::format(&state, "XXH64", found, expected).into());
    }
    let bytes = MappedFile::open(&state).map_err(|e| IoError::read(&state)(e))?;
    trainer.restore(&Tensors::parse(&state, &bytes)?)
}

fn checksum(path: &Path) -> Result<String, IoError> {
    let bytes = MappedFile::open(path).map_err(|e| IoError::read(path)(e))?;
    Ok(format!("{:016x}", Checksum::of(&bytes)))
}
