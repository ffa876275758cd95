//! A repository on the hub: its files, and what the small ones of a folder say. Weights are not
//! fetched.

use super::files;
use super::view::View;
use anyhow::{Result, bail};
use lapidary_model::HubRepository;
use serde_json::json;
use std::collections::BTreeSet;

/// Files that say what lies beside them.
const CONFIGS: [&str; 4] = ["cfg.json", "config.json", "hyperparams.json", "config.yaml"];
/// Files of weights of dictionaries.
const WEIGHTS: [&str; 7] = [
    "sae_weights.safetensors",
    "sae.safetensors",
    "ae.pt",
    "params.npz",
    "params.safetensors",
    "final.safetensors",
    "quantized_weights.safetensors",
];

/// `OWNER/NAME[@REVISION][/PATH]`.
pub fn view(address: &str, all: bool) -> Result<View> {
    let mut parts = address.trim_matches('/').splitn(3, '/');
    let (owner, name) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let within = parts.next().unwrap_or("");
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (name, None),
    };
    let repository = HubRepository::model(&format!("{owner}/{name}"), revision)?;
    let below: Vec<&str> = repository
        .files()
        .iter()
        .filter_map(|file| match within {
            "" => Some(file.as_str()),
            _ => file.strip_prefix(within)?.strip_prefix('/'),
        })
        .collect();
    let is_file = repository.files().iter().any(|file| file == within);
    if below.is_empty() && !is_file {
        bail!("hf:{address}: the repository has neither a folder nor a file {within}");
    }
    let small = |file: &str| CONFIGS.contains(&file);
    if is_file {
        let last = within.rsplit('/').next().unwrap_or(within);
        if small(last) && last != "config.yaml" {
            return files::view(&repository.fetch(within)?, all);
        }
        bail!(
            "hf:{address}: inspect does not fetch this file: name its folder, or download the file first"
        );
    }
    let mut view = View::new("repository");
    view.fact("repository", format!("{owner}/{name}"));
    view.fact("revision", revision.unwrap_or("main"));
    view.told("files", below.len(), &below.len().to_string());
    let dictionaries: BTreeSet<String> = below
        .iter()
        .filter_map(|file| match file.rsplit_once('/') {
            Some((folder, name)) if WEIGHTS.contains(&name) => {
                Some(folder.trim_end_matches("/checkpoints").to_owned())
            }
            None if WEIGHTS.contains(file) => Some(".".to_owned()),
            _ => None,
        })
        .collect();
    if !dictionaries.is_empty() {
        let count = dictionaries.len();
        view.told("dictionaries", count, &format!("{count}, in the folders"));
        let lines = dictionaries.into_iter();
        let lines = lines.map(|folder| (json!(folder), format!("  {folder}")));
        view.list("dictionary_folders", lines.collect(), all);
    } else {
        let lines = below.iter().map(|file| (json!(file), format!("  {file}")));
        view.list("names", lines.collect(), all);
    }
    for config in CONFIGS.iter().filter(|c| below.contains(*c)) {
        let file = match within {
            "" => (*config).to_owned(),
            _ => format!("{within}/{config}"),
        };
        let fetched = repository.fetch(&file)?;
        let text = lapidary_io::read_text(&fetched)?;
        view.line(format!("{config}:"));
        view.store(config, text.clone());
        let shown = if all { usize::MAX } else { 60 };
        for line in text.lines().take(shown) {
            view.line(format!("  {}", super::view::cut(line)));
        }
    }
    Ok(view)
}
