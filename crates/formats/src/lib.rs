//! Dictionaries in the field's formats: found out, read and written.
//!
//! [`detect`] says which format lies in a place and refuses what could be two; [`open`] reads a [`Dictionary`] from any;
//! [`save`] writes those that other programs read, and refuses by name what a format cannot hold. One file a format.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use lapidary_formats::{Format, open, save};
//!
//! let dictionary = open("sparsify/layers.10".as_ref(), None, &Device::flex())?;
//! save(&dictionary, "saelens".as_ref(), Format::SaeLens)?;
//! # Ok::<(), lapidary_formats::FormatError>(())
//! ```

mod circuit_tracer;
pub mod container;
mod dictionary_learning;
mod error;
mod format;
mod gemma_scope;
mod hooks;
mod hub;
mod llama_scope;
mod llamascopium;
mod openai;
mod parts;
mod place;
mod provenance;
mod saelens;
mod sample;
mod sparsify;
mod yaml;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use lapidary_sae::{Dictionary, SaeError, replace_folder};

pub use error::FormatError;
pub use format::Format;
pub use hub::local;
pub use sample::SAMPLE;

use place::Place;

/// Which format lies at `path`, a folder or a file of it.
///
/// # Errors
/// When there is none that is known, or signs of several.
pub fn detect(path: &Path) -> Result<Format, FormatError> {
    detect_in(&Place::new(path)?)
}

fn detect_in(place: &Place) -> Result<Format, FormatError> {
    let mut found = vec![];
    for format in Format::ALL {
        if let Some(signs) = format.layout().signs(place)? {
            found.push((format, signs));
        }
    }
    match &found[..] {
        [(format, _)] => Ok(*format),
        [] => Err(FormatError::Unknown {
            path: place.path.clone(),
            found: place.describe(),
        }),
        several => Err(FormatError::Ambiguous {
            path: place.path.clone(),
            candidates: several
                .iter()
                .map(|(format, signs)| format!("{format} ({signs})"))
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// Whether a dictionary of some format lies at `path`.
#[must_use]
pub fn exists(path: &Path) -> bool {
    match detect(path) {
        Ok(_) | Err(FormatError::Ambiguous { .. }) => true,
        Err(_) => false,
    }
}

/// Reads the dictionary at `path`, a folder or a file of it, in the format given or else the one found out. A [`SAMPLE`] beside it
/// is encoded and must come out as it was written.
///
/// # Errors
/// When the format cannot be told, a file is missing or damaged, or says something that this program cannot do exactly.
pub fn open(
    path: &Path,
    format: Option<Format>,
    device: &Device,
) -> Result<Dictionary, FormatError> {
    let place = Place::new(path)?;
    let format = match format {
        Some(format) => format,
        None => detect_in(&place)?,
    };
    let dictionary = format.layout().read(&place, device)?;
    let name = format.layout().sample(&dictionary);
    sample::check(&dictionary.coder, &place.folder, &name)?;
    Ok(dictionary)
}

/// Writes the folder `dir` in a format, with a [`SAMPLE`]. All of it stands, or what stood there before.
///
/// # Errors
/// When the format cannot hold such a coder or is only read, the folder cannot be written, or something stands there that is
/// no dictionary.
pub fn save(dictionary: &Dictionary, dir: &Path, format: Format) -> Result<(), FormatError> {
    save_all(std::slice::from_ref(dictionary), dir, format)
}

/// Where [`save_all`] puts a dictionary: the folder, or its file in a set.
#[must_use]
pub fn place_of(dictionary: &Dictionary, dir: &Path, format: Format) -> PathBuf {
    match format.layout().file(dictionary) {
        Some(file) => dir.join(file),
        None => dir.to_path_buf(),
    }
}

/// As [`save`], of all dictionaries of a set: the transcoders of a model's layers.
///
/// # Errors
/// As there; also when the format holds no sets, or these are none.
pub fn save_all(
    dictionaries: &[Dictionary],
    dir: &Path,
    format: Format,
) -> Result<(), FormatError> {
    let layout = format.layout();
    let each = dictionaries.iter().find_map(|d| layout.cannot_hold(d));
    let several = || match dictionaries.len() {
        1 => None,
        _ => layout.cannot_join(dictionaries),
    };
    if let Some(what) = each.or_else(several) {
        return Err(FormatError::CannotHold {
            path: dir.into(),
            format,
            what,
        });
    }
    let is_empty = || std::fs::read_dir(dir).is_ok_and(|mut d| d.next().is_none());
    if dir.exists() && !is_empty() && !exists(dir) {
        return Err(SaeError::format(
            dir,
            "folder",
            "something that is not a dictionary",
            "a new folder, an empty one, or an old dictionary to replace",
        )
        .into());
    }
    only_ours(dir)?;
    // Refused above, before anything else.
    replace_folder(
        dir,
        |_| true,
        |folder| {
            for dictionary in dictionaries {
                layout.write(dictionary, folder)?;
                let name = layout.sample(dictionary);
                sample::write(&dictionary.coder, folder, &name)?;
            }
            Ok(())
        },
    )?;
    Ok(())
}

/// Refuses a folder with anything in it that [`save_all`] does not write: it would be lost.
fn only_ours(dir: &Path) -> Result<(), FormatError> {
    const NAMES: [&str; 6] = [
        "cfg.json",
        "config.json",
        "config.yaml",
        "sae_weights.safetensors",
        "sae.safetensors",
        "ae.pt",
    ];
    if !dir.exists() {
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).map_err(|e| SaeError::read(dir, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| SaeError::read(dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = NAMES.contains(&name.as_str())
            || name.starts_with("lapidary_sample")
            || (["layer_", "W_enc_", "W_dec_"]
                .iter()
                .any(|p| name.starts_with(p))
                && name.ends_with(".safetensors"));
        if !ours || !entry.path().is_file() {
            return Err(SaeError::format(
                dir,
                "folder",
                format!("`{name}` beside a dictionary"),
                "nothing but a dictionary to replace: choose another folder, or move that away",
            )
            .into());
        }
    }
    Ok(())
}
