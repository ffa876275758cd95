//! What lies in a folder that is no dictionary: said in errors, so that the next try is right.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// How deep below a folder dictionaries are looked for, and how many entries are looked at.
const DEEPEST: usize = 4;
const MOST_ENTRIES: usize = 4000;
/// Dictionaries that an error names.
const SHOWN: usize = 8;
/// Files that are a dictionary's, whatever else lies beside them.
const WEIGHTS: [&str; 8] = [
    "quantized_weights.safetensors",
    "sae_weights.safetensors",
    "sae.safetensors",
    "ae.pt",
    "params.npz",
    "params.safetensors",
    "layer_0.safetensors",
    "W_enc_0.safetensors",
];

/// What a folder without a dictionary is, with these files and folders in it; none if that is not
/// known.
pub(crate) fn instead(folder: &Path, names: &[String], folders: &[String]) -> Option<String> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let below = |name: &str| folders.iter().any(|n| n == name);
    if has("manifest.json") {
        let format = text_of(&folder.join("manifest.json"), "format")?;
        return Some(match format.as_str() {
            "lapidary checkpoint" => "a checkpoint of a run, which is no dictionary (the run's folder has `dictionary` once it is finished)".into(),
            _ => format!("a folder whose manifest.json says {format:?}"),
        });
    }
    if has("metrics.jsonl") && has("config.toml") || below("checkpoint") && !below("dictionary") {
        return Some("a run without a dictionary: it is not finished".into());
    }
    if has("config.json") && text_of(&folder.join("config.json"), "model_type").is_some() {
        return Some("a model".into());
    }
    if names.iter().any(|n| WEIGHTS.contains(&n.as_str())) {
        return None;
    }
    let mut found = vec![];
    let mut left = MOST_ENTRIES;
    search(folder, "", 0, &mut left, &mut found);
    found.sort();
    match &found[..] {
        [] => None,
        [only] => Some(format!(
            "a dictionary in the folder {only} below: name that"
        )),
        several => {
            let more = if several.len() > SHOWN { ", …" } else { "" };
            let first: Vec<&str> = several.iter().take(SHOWN).map(String::as_str).collect();
            Some(format!(
                "{} dictionaries in the folders {}{more} below: name one",
                several.len(),
                first.join(", ")
            ))
        }
    }
}

/// Folders with weights below a folder. Links to folders are not followed, so that none is visited
/// twice.
fn search(folder: &Path, before: &str, depth: usize, left: &mut usize, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && depth < DEEPEST {
            let within = format!("{before}{name}");
            search(&entry.path(), &format!("{within}/"), depth + 1, left, found);
        } else if !is_folder && depth > 0 && WEIGHTS.contains(&name.as_str()) {
            found.push(before.trim_end_matches('/').to_owned());
        }
    }
}

fn text_of(path: &Path, field: &str) -> Option<String> {
    let value: Value = lapidary_io::read_json(path).ok()?;
    Some(value.get(field)?.as_str()?.to_owned())
}
