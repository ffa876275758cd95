//! Dictionaries in the field's formats: found out, read and written.
//!
//! [`detect`] says which format lies in a place and refuses what could be two; [`open`] reads a
//! [`Dictionary`] from any; [`save`] writes those that other programs read, and refuses by name
//! what a format cannot hold. One file a format.
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
mod found;
mod gemma_scope;
mod hooks;
mod hub;
mod layout;
mod llama_scope;
mod llamascopium;
mod openai;
mod parts;
mod place;
mod provenance;
mod quantized;
pub mod saelens;
mod sample;
mod sparsify;
mod yaml;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use lapidary_coder::{CoderError, Description, Dictionary};
use lapidary_io::fill_folder;
use lapidary_io::{FolderLock, StagedFolder};
use lapidary_quantize::Scheme;

pub use error::FormatError;
pub use format::Format;
pub use hub::local;
pub use quantized::QuantizedDictionary;
pub use sample::SAMPLE;

use place::Place;

/// Which format lies at `path`, a folder or a file of it.
///
/// # Errors
/// When there is none that is known, or signs of several.
pub fn detect(path: &Path) -> Result<Format, FormatError> {
    detect_in(&Place::resolved(path)?)
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
            expected: Format::signatures(),
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

/// How the dictionary at `path` is quantized; none if it is in another format.
///
/// # Errors
/// When nothing lies there, its format cannot be told, or its configuration is wrong.
pub fn quantization(path: &Path) -> Result<Option<Scheme>, FormatError> {
    let place = Place::resolved(path)?;
    match detect_in(&place)? {
        Format::Quantized => quantized::scheme_at(&place).map(Some),
        _ => Ok(None),
    }
}

/// Whether a dictionary of some format lies at `path`.
#[must_use]
pub fn exists(path: &Path) -> bool {
    let place = Place::new(path);
    matches!(
        place.and_then(|place| detect_in(&place)),
        Ok(_) | Err(FormatError::Ambiguous { .. })
    )
}

/// The folder whose files [`open`] reads for `path`.
///
/// # Errors
/// When nothing lies there.
pub fn folder_of(path: &Path) -> Result<PathBuf, FormatError> {
    Ok(Place::resolved(path)?.folder)
}

/// Reads the dictionary at `path`, a folder or a file of it, in the format given or else the one
/// found out. A [`SAMPLE`] beside it is encoded and must come out as it was written.
///
/// # Errors
/// When the format cannot be told, a file is missing or damaged, or says something that this
/// program cannot do exactly.
pub fn open(
    path: &Path,
    format: Option<Format>,
    device: &Device,
) -> Result<Dictionary, FormatError> {
    let place = Place::resolved(path)?;
    let format = match format {
        Some(format) => format,
        None => detect_in(&place)?,
    };
    let dictionary = format.layout().read(&place, device)?;
    let name = format.layout().sample(&dictionary);
    sample::check(&dictionary.coder, &place.folder, &name)?;
    Ok(dictionary)
}

/// The places of the dictionaries at `path`, each for [`open`]: those of a set, such as the
/// transcoders of a model's layers, or `path` itself.
///
/// # Errors
/// When nothing lies there, or its format cannot be told.
pub fn members(path: &Path, format: Option<Format>) -> Result<Vec<PathBuf>, FormatError> {
    let place = Place::resolved(path)?;
    let format = match format {
        Some(format) => format,
        None => detect_in(&place)?,
    };
    let names = format.layout().members(&place);
    Ok(match names.len() {
        0 | 1 => vec![path.to_path_buf()],
        _ => names.iter().map(|name| place.join(name)).collect(),
    })
}

/// What the files of the dictionary at `path` say of it, weights unread, and its format; none where
/// its format says nothing without them, and [`open`] must be asked.
///
/// # Errors
/// As [`open`], but for the values of weights.
pub fn describe(
    path: &Path,
    format: Option<Format>,
) -> Result<(Format, Option<Description>), FormatError> {
    let place = Place::resolved(path)?;
    let format = match format {
        Some(format) => format,
        None => detect_in(&place)?,
    };
    Ok((format, format.layout().describe(&place)?))
}

/// Writes the folder `dir` in a format, with a [`SAMPLE`]. All of it stands, or what stood there
/// before.
///
/// # Errors
/// When the format cannot hold such a coder or is only read, the folder cannot be written, or
/// something stands there that is no dictionary.
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
    let staged = StagedFolder::begin(dir).map_err(CoderError::from)?;
    save_begun(dictionaries, staged, format).map(drop)
}

/// As [`save_all`], into a folder that was begun, and thereby locked, before the dictionaries were
/// read. Gives the lock of the finished folder.
///
/// # Errors
/// As there.
pub fn save_begun(
    dictionaries: &[Dictionary],
    staged: StagedFolder,
    format: Format,
) -> Result<FolderLock, FormatError> {
    let (layout, dir) = (format.layout(), staged.target());
    let loading = || {
        let said = |d: &Dictionary| d.provenance.loading.changes_activations();
        let why = "how the dictionary's model was loaded (model_from_pretrained_kwargs and the like), which its activations depend on: only saelens can";
        (format != Format::SaeLens && dictionaries.iter().any(said)).then(|| why.to_owned())
    };
    let each = dictionaries
        .iter()
        .find_map(|d| layout.cannot_hold(d))
        .or_else(loading);
    let several = || match dictionaries.len() {
        1 => None,
        _ => layout.cannot_join(dictionaries),
    };
    if let Some(what) = each.or_else(several) {
        return Err(FormatError::CannotHold {
            path: dir.into(),
            format: format.name(),
            what,
        });
    }
    only_ours(dir)?;
    let lock = fill_folder(staged, |folder| -> Result<(), CoderError> {
        for dictionary in dictionaries {
            layout.write(dictionary, folder)?;
            let name = layout.sample(dictionary);
            sample::write(&dictionary.coder, folder, &name)?;
        }
        Ok(())
    })?;
    Ok(lock)
}

/// Refuses a place with anything in it but a dictionary that [`save_all`] or a trainer wrote: it
/// would be lost. Whoever writes a dictionary asks this before any work.
///
/// # Errors
/// When there is something else, or the folder cannot be read.
pub fn only_ours(dir: &Path) -> Result<(), FormatError> {
    if !dir.exists() {
        return Ok(());
    }
    let wrong = |found: String| -> FormatError {
        let expected = "a new folder, an empty one, or nothing but a dictionary to replace: choose another folder, or move that away";
        CoderError::format(dir, "folder", found, expected).into()
    };
    let entries = std::fs::read_dir(dir).map_err(|e| CoderError::read(dir, e))?;
    let (mut foreign, mut is_empty) = (vec![], true);
    for entry in entries {
        let entry = entry.map_err(|e| CoderError::read(dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_of_dictionary(&name) || !entry.path().is_file() {
            foreign.push(format!("`{name}`"));
        }
        is_empty = false;
    }
    foreign.sort();
    match foreign.len() {
        0 if is_empty || exists(dir) => Ok(()),
        0 => Err(wrong("something that is not a dictionary".into())),
        n => {
            foreign.truncate(6);
            let more = if n > foreign.len() { ", …" } else { "" };
            let names = format!("{}{more}", foreign.join(", "));
            Err(wrong(match exists(dir) {
                true => format!("{names} beside a dictionary"),
                false => format!("something that is not a dictionary: {names}"),
            }))
        }
    }
}

/// Whether this is the name of a file that belongs to a dictionary as it is written here.
fn is_of_dictionary(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "cfg.json",
        "config.json",
        "config.yaml",
        "sae_weights.safetensors",
        "sae.safetensors",
        "ae.pt",
        saelens::QUANTIZED_WEIGHTS,
        quantized::REPORT,
        SAMPLE,
    ];
    let numbered = ["layer_", "W_enc_", "W_dec_", "lapidary_sample_"];
    let number = |prefix: &&str| {
        let rest = name.strip_prefix(*prefix)?;
        rest.strip_suffix(".safetensors")
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    NAMES.contains(&name) || numbered.iter().filter_map(number).any(is_number)
}
