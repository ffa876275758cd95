//! What lies in a folder that lacks a model's files, in words that say what to do.

use crate::ModelError;
use std::collections::BTreeMap;
use std::path::Path;

/// Files named in an error, at most.
const NAMED: usize = 6;

/// The shards of a folder without `model.safetensors` and without an index, by their names:
/// `model-00001-of-00003.safetensors` and so on, all of them.
pub(crate) fn shards(folder: &Path) -> Result<Vec<String>, ModelError> {
    let names = names(folder);
    // Of each series, by what comes before the numbers and how many there should be.
    let mut series: BTreeMap<(&str, usize), Vec<usize>> = BTreeMap::new();
    for (before, number, of) in names.iter().filter_map(|name| numbered(name)) {
        series.entry((before, of)).or_default().push(number);
    }
    let mut found = series.into_iter();
    let (Some(((before, of), numbers)), None) = (found.next(), found.next()) else {
        return Err(nothing(folder, "model.safetensors"));
    };
    let name = |number: usize| format!("{before}-{number:05}-of-{of:05}.safetensors");
    match (1..=of).find(|number| !numbers.contains(number)) {
        None => Ok((1..=of).map(name).collect()),
        Some(missing) => Err(ModelError::Folder {
            path: folder.into(),
            missing: name(missing),
            found: format!("{} of {of} shards", numbers.len()),
            advice: "fetch the model again".into(),
        }),
    }
}

/// `model-00001-of-00003.safetensors` as its parts.
fn numbered(name: &str) -> Option<(&str, usize, usize)> {
    let stem = name.strip_suffix(".safetensors")?;
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (before, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| match digits.len() == 5 {
        true => digits.parse::<usize>().ok(),
        false => None,
    };
    let (number, of) = (parse(number)?, parse(of)?);
    (of <= 10_000).then_some((before, number, of))
}

/// The error of a folder that lacks `missing`: it says what lies there instead.
pub(crate) fn nothing(folder: &Path, missing: &str) -> ModelError {
    let names = names(folder);
    let with = |ends: &[&str]| {
        let fits = |name: &&String| ends.iter().any(|end| name.to_lowercase().ends_with(end));
        names.iter().find(fits)
    };
    let has = |name: &str| names.iter().any(|found| found == name);
    let at = folder.display();
    let advice = if has("adapter_config.json") {
        "it holds an adapter (PEFT): merge it into its model, and give the folder of that"
            .to_owned()
    } else if let Some(gguf) = with(&[".gguf"]) {
        format!("give the GGUF file itself: {}", folder.join(gguf).display())
    } else if let Some(pickle) = with(&[".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"]) {
        match has("config.json") {
            true => format!(
                "{pickle} is not read, since loading it could run code; convert it with: python -c \"from transformers import \
                AutoModelForCausalLM as M; M.from_pretrained('{at}').save_pretrained('{at}-safetensors')\""
            ),
            false => format!(
                "{pickle} is another layout: convert it to Hugging Face's, with config.json and model.safetensors"
            ),
        }
    } else if let Some(tensors) = with(&[".safetensors"]).filter(|_| missing != "config.json") {
        format!("if {tensors} holds the whole model, name it model.safetensors")
    } else {
        "a model's folder has config.json, model.safetensors and tokenizer.json".to_owned()
    };
    ModelError::Folder {
        path: folder.into(),
        missing: missing.into(),
        found: listed(&names),
        advice,
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".into();
    }
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let first: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    format!("{}{more}", first.join(", "))
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
