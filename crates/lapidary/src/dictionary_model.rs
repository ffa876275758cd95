//! The model that a dictionary reads: every command that runs a model under a dictionary gets it
//! here, changed as the dictionary's metadata say. Names that come from the metadata are said to,
//! with the option that replaces them.

use crate::error::{Context, Error, Result, bail};
use crate::progress::Progress;
use burn::tensor::Device;
use lapidary_coder::{Coder, Dictionary};
use lapidary_evaluation::{Hooks, PreparedModel, hub_name};
use lapidary_model::{LanguageModel, ModelError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The model of the dictionary at `path`: `given`, or the one that the dictionary names.
pub fn load(
    progress: &dyn Progress,
    dictionary: &Dictionary,
    path: &Path,
    given: Option<&str>,
    device: &Device,
) -> Result<Arc<LanguageModel>> {
    let named = given.or(dictionary.provenance.model_name.as_deref());
    let name = named.context("the dictionary does not name its model: give --model")?;
    let model = match given {
        Some(name) => LanguageModel::load(name, device)?,
        None => load_named(name, path, "--model replaces it", device)?,
    };
    let prepared = PreparedModel::of(dictionary, model, given.is_some())
        .with_context(|| said_by(path).display().to_string())?;
    let notes = prepared.model.warnings().iter().chain(&prepared.notes);
    notes.for_each(|text| progress.say("note", text));
    check_hook_points(dictionary, path, &prepared.model)?;
    Ok(Arc::new(prepared.model))
}

/// The second model of a crosscoder of two.
pub fn load_second(name: &str, path: &Path, device: &Device) -> Result<LanguageModel> {
    load_named(
        name,
        path,
        "no option replaces the second model of a crosscoder",
        device,
    )
}

/// A model that a dictionary names, by TransformerLens's name as well.
fn load_named(name: &str, path: &Path, hint: &str, device: &Device) -> Result<LanguageModel> {
    let on_hub = hub_name(name).filter(|_| !Path::new(name).exists());
    let also = on_hub.as_deref().map(|hub| format!("{hub} on the hub, "));
    let said = format!(
        "model `{name}` ({}named by {}; {hint})",
        also.unwrap_or_default(),
        said_by(path).display()
    );
    let loaded = LanguageModel::load(on_hub.as_deref().unwrap_or(name), device);
    loaded.map_err(|error| match error {
        ModelError::NotFound { problem, .. } => {
            Error::Invalid(format!("{said} was not found: {problem}"))
        }
        other => Error::from(other).context(said),
    })
}

/// Whether the model has the hook points that the dictionary reads, and as wide.
fn check_hook_points(dictionary: &Dictionary, path: &Path, model: &LanguageModel) -> Result<()> {
    let said = || {
        format!(
            "the hook point is named by {} (--hook-point replaces it)",
            said_by(path).display()
        )
    };
    if dictionary.sites().first_read().is_none() {
        return Ok(()); // which the command itself says
    }
    let [hooks, _] = Hooks::sources_of_both(dictionary).with_context(said)?;
    let mut width = 0;
    for hook in &hooks {
        width += model.width(*hook).with_context(said)?;
    }
    let d_in = dictionary.coder.d_in();
    if dictionary.sites().second_model().is_none() && width != d_in {
        let names: Vec<String> = hooks.iter().map(ToString::to_string).collect();
        bail!(
            "{}: the dictionary reads {d_in} dimensions, but {} of model `{}` has {width}: give --model or --hook-point",
            said_by(path).display(),
            names.join(", "),
            model.name()
        );
    }
    Ok(())
}

/// Adds to a failure to read a text that the text was named by the dictionary.
pub fn corpus_of<'a>(path: &'a Path, given: bool) -> impl FnOnce(Error) -> Error + 'a {
    move |error| match given {
        true => error,
        false => error.context(format!(
            "the text is named by {} (--corpus replaces it)",
            said_by(path).display()
        )),
    }
}

/// The file in which a dictionary's metadata are, for messages.
fn said_by(path: &Path) -> PathBuf {
    let folders = [path.join("dictionary"), path.to_path_buf()];
    let beside = path.parent().filter(|_| path.is_file());
    let folders = folders.iter().map(PathBuf::as_path).chain(beside);
    let names = ["cfg.json", "config.json", "config.yaml", "hyperparams.json"];
    folders
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|file| file.is_file())
        .unwrap_or_else(|| path.to_path_buf())
}

/// A model, whose warnings are said.
///
/// # Errors
/// There is no such model, or its files are damaged.
pub fn load_model(
    progress: &dyn Progress,
    name: &str,
    device: &Device,
) -> Result<Arc<LanguageModel>> {
    let model = LanguageModel::load(name, device)?;
    for warning in model.warnings() {
        progress.say("note", warning);
    }
    Ok(Arc::new(model))
}
