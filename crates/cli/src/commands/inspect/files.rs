//! Single files, by their endings.

use super::folders;
use super::json_lines::{fields, json_lines};
use super::recipes::recipe;
use super::tables::{runs, table};
use super::view::{View, cut};
use crate::commands::figures;
use anyhow::{Context, Result, bail};
use lapidary::summary;
use lapidary_evaluation::Metrics;
use lapidary_formats::container::Container;
use lapidary_model::GgufDescription;
use lapidary_sae::Recipe;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

pub fn view(path: &Path, all: bool) -> Result<View> {
    if !path.is_file() {
        bail!("{}: neither a folder nor a regular file", path.display());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors" | "pt" | "pth" | "bin" | "npz") => tensors(path, all),
        Some("parquet") if name == summary::FILE => runs(path, all),
        Some("parquet") => table(path, all),
        Some("gguf") => gguf(path, all),
        Some("json") => json_file(path, all),
        Some("jsonl" | "ndjson") => json_lines(path, all),
        Some("toml") => toml_file(path, all),
        Some("yaml") if name == "config.yaml" => folders::dictionary(path, None, all),
        _ => bail!(
            "{}: found another extension, expected .safetensors, .pt, .pth, .bin, .npz, .gguf, .parquet, .json, .jsonl or .toml",
            path.display()
        ),
    }
}

fn tensors(path: &Path, all: bool) -> Result<View> {
    let file = Container::open(path)?;
    let tensors = file.tensors()?;
    let mut view = View::new("tensors");
    view.store("file", path.display().to_string());
    let lines = tensors.described().map(|(name, dtype, shape)| {
        let value = json!({"name": name, "dtype": dtype, "shape": shape});
        (value, format!("{dtype:<5} {shape:?}  {name}"))
    });
    let lines: Vec<_> = lines.collect();
    view.list("tensors", lines, all);
    Ok(view)
}

fn gguf(path: &Path, all: bool) -> Result<View> {
    let file = GgufDescription::read(path)?;
    let mut view = View::new("GGUF model");
    let weights = |shape: &[usize]| shape.iter().product::<usize>();
    let total: usize = file.tensors.iter().map(|(.., shape)| weights(shape)).sum();
    view.line(format!(
        "GGUF model of the architecture {}, {:.1} M weights in {} tensors",
        file.architecture,
        total as f64 / 1e6,
        file.tensors.len()
    ));
    view.store("architecture", file.architecture.clone());
    view.store("weights", total);
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (_, encoding, shape) in &file.tensors {
        let (tensors, numbers) = kinds.entry(encoding).or_default();
        *tensors += 1;
        *numbers += weights(shape);
    }
    let kinds = kinds.into_iter().map(|(encoding, (tensors, numbers))| {
        let line = format!(
            "{encoding:<6} {tensors:>5} tensors, {:.1} M weights",
            numbers as f64 / 1e6
        );
        let value = json!({"encoding": encoding, "tensors": tensors, "weights": numbers});
        (value, line)
    });
    let kinds: Vec<_> = kinds.collect();
    view.list("encodings", kinds, true);
    let fields = file.fields.iter().map(|(field, value)| {
        let line = format!("{field} = {}", if all { value.clone() } else { cut(value) });
        (json!({"name": field, "value": value}), line)
    });
    let fields: Vec<_> = fields.collect();
    view.list("fields", fields, true);
    Ok(view)
}

fn json_file(path: &Path, all: bool) -> Result<View> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let value: Value = lapidary_io::read_json(path)?;
    if name == "config.json" && value.get("model_type").is_some() {
        return folders::model(path);
    }
    if name == "cfg.json"
        && let Ok(view) = folders::dictionary(path, None, all)
    {
        return Ok(view);
    }
    if value.get("ce_loss_score").is_some()
        && let Ok(metrics) = serde_json::from_value::<Metrics>(value.clone())
    {
        let mut view = View::new("metrics");
        view.store("metrics", value);
        let text = match all {
            true => figures::table(&metrics),
            false => figures::headline(&metrics) + "all metrics: --all",
        };
        for line in text.lines() {
            view.line(line);
        }
        return Ok(view);
    }
    let mut view = View::new("JSON");
    fields(&mut view, &value, all);
    Ok(view)
}

/// A recipe, or any other TOML.
fn toml_file(path: &Path, all: bool) -> Result<View> {
    let text = lapidary_io::read_text(path)?;
    let name = path.display().to_string();
    match Recipe::parse(&name, &text, &[]) {
        Ok(config) => {
            let mut view = View::new("recipe");
            view.fact("recipe", name);
            recipe(&mut view, &config);
            if all {
                for line in config.to_toml().lines() {
                    view.line(line);
                }
            }
            let values = config.values().into_iter();
            let values = values.map(|(key, value)| Ok((key, serde_json::to_value(value)?)));
            let values = values.collect::<Result<serde_json::Map<_, _>>>()?;
            view.store("values", Value::Object(values));
            Ok(view)
        }
        Err(why) => {
            let table: toml::Table = toml::from_str(&text)
                .with_context(|| format!("{}: not valid TOML", path.display()))?;
            let mut view = View::new("TOML");
            view.fact("not a recipe of `train`", why.to_string());
            fields(&mut view, &serde_json::to_value(table)?, all);
            Ok(view)
        }
    }
}
