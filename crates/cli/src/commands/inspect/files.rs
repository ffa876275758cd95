//! Single files, by their endings.

use super::folders;
use super::view::{FIRST, View, brief, cut, size};
use crate::commands::figures;
use anyhow::{Context, Result, bail};
use lapidary::summary;
use lapidary_evaluation::Metrics;
use lapidary_features::{describe_table, read_examples, read_features, read_runs};
use lapidary_formats::container::Container;
use lapidary_model::GgufDescription;
use lapidary_sae::Recipe;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of a line of JSON that are read.
const LONGEST_LINE: u64 = 1 << 20;
/// Tables that are read whole, for their first rows.
const READ_AT_MOST: u64 = 64 << 20;
/// Rows that are shown of them.
const ROWS: usize = 20;

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

/// A table: its columns, and of one of ours the first rows too.
fn table(path: &Path, all: bool) -> Result<View> {
    let described = describe_table(path)?;
    let has = |name: &str| described.columns.iter().any(|(column, _)| column == name);
    let bytes = path.metadata().map_or(u64::MAX, |data| data.len());
    let small = bytes <= READ_AT_MOST;
    if small
        && has("firing_density")
        && let Ok(rows) = read_features(path)
    {
        let mut view = View::new("feature table");
        let dead = rows.iter().filter(|r| r.dead).count();
        view.line(format!("{} latents, {dead} dead", rows.len()));
        view.store("latents", rows.len());
        view.store("dead", dead);
        let mut rows: Vec<_> = rows.iter().filter(|r| !r.dead).collect();
        rows.sort_by(|a, b| b.firing_density.total_cmp(&a.firing_density));
        let lines = rows.iter().take(ROWS).map(|row| {
            let tokens = row.top_tokens.iter().take(6);
            let words: Vec<String> = tokens.map(|t| format!("{:?}", t.text)).collect();
            let line = format!(
                "{:>7}  density {:.5}  max {:>8.3}  {}",
                row.feature_id,
                row.firing_density,
                row.max_activation,
                words.join(" ")
            );
            let value = json!({
                "feature_id": row.feature_id,
                "firing_density": row.firing_density,
                "max_activation": row.max_activation,
            });
            (value, line)
        });
        let lines: Vec<_> = lines.collect();
        view.list("first_rows", lines, true);
        return Ok(view);
    }
    if small
        && has("peak_index")
        && let Ok(rows) = read_examples(path)
    {
        let mut view = View::new("table of contexts");
        view.line(format!("{} contexts", rows.len()));
        view.store("contexts", rows.len());
        let lines = rows.iter().take(ROWS).map(|row| {
            let text = row.tokens.concat();
            let line = format!(
                "{:>7}  {:>8.3}  {}",
                row.feature_id,
                row.max_activation,
                cut(&text)
            );
            let value = json!({"feature_id": row.feature_id, "max_activation": row.max_activation, "text": text});
            (value, line)
        });
        let lines: Vec<_> = lines.collect();
        view.list("first_rows", lines, true);
        return Ok(view);
    }
    let mut view = View::new("table");
    view.told("rows", described.rows, &described.rows.to_string());
    view.told("size", bytes, &size(bytes));
    let columns = described.columns.into_iter().map(|(name, dtype)| {
        let line = format!("{dtype:<16} {name}");
        (json!({"name": name, "type": dtype}), line)
    });
    let columns: Vec<_> = columns.collect();
    view.told("columns", columns.len(), &columns.len().to_string());
    view.list("columns", columns, all);
    Ok(view)
}

/// The table of a sweep's runs.
pub fn runs(path: &Path, all: bool) -> Result<View> {
    let bytes = path.metadata().map_or(u64::MAX, |data| data.len());
    if bytes > READ_AT_MOST {
        return table(path, all);
    }
    let rows = read_runs(path)?;
    let mut view = View::new("sweep");
    view.line(format!("{} runs in {}", rows.len(), path.display()));
    // What runs were told apart by stands between their names and the course of their training.
    let mut shown: Vec<String> = vec!["name".into()];
    let keys = rows.first().into_iter().flatten().map(|(key, _)| key);
    shown.extend(keys.filter(|key| key.contains('.')).take(6).cloned());
    shown.extend(figures::HEADLINE.map(str::to_owned));
    let cell = |row: &[(String, Value)], key: &str| {
        let found = row.iter().find(|(name, _)| name == key);
        match found.map(|(_, value)| value) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(value) => match value.as_f64().filter(|_| value.is_f64()) {
                Some(number) => figures::number(number),
                None => cut(&brief(value, false)),
            },
        }
    };
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| shown.iter().map(|key| cell(row, key)).collect())
        .collect();
    let wide = |at: usize| {
        let cells = lines.iter().map(|line| line[at].chars().count());
        cells.chain([shown[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..shown.len()).map(wide).collect();
    let join = |cells: &[String]| {
        let padded = cells.iter().zip(&widths);
        let padded: Vec<String> = padded.map(|(c, w)| format!("{c:<w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    view.line(join(&shown));
    let values = rows.iter().map(|row| {
        let fields = row.iter().cloned();
        Value::Object(fields.collect())
    });
    let listed = values.zip(lines.iter().map(|line| join(line)));
    let listed: Vec<_> = listed.collect();
    view.list("runs", listed, all);
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

/// The fields of an object, a line each.
fn fields(view: &mut View, value: &Value, all: bool) {
    let Value::Object(map) = value else {
        view.told("value", value.clone(), &brief(value, all));
        return;
    };
    view.told("fields", map.len(), &map.len().to_string());
    let lines = map.iter().map(|(field, value)| {
        let line = format!("{field:<24} {}", brief(value, all));
        (json!({"name": field, "value": value}), line)
    });
    let lines: Vec<_> = lines.collect();
    view.list("values", lines, all);
}

/// JSON lines: the first of them. The others are not read, or counted.
fn json_lines(path: &Path, all: bool) -> Result<View> {
    let mut view = View::new("JSON lines");
    let bytes = path
        .metadata()
        .with_context(|| path.display().to_string())?
        .len();
    view.told("size", bytes, &size(bytes));
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut start = vec![];
    file.take(LONGEST_LINE)
        .read_to_end(&mut start)
        .with_context(|| path.display().to_string())?;
    let whole = start.iter().position(|b| *b == b'\n');
    let line = &start[..whole.unwrap_or(start.len())];
    let text = String::from_utf8_lossy(line);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        view.line(if bytes == 0 {
            "no line"
        } else {
            "the first line is empty"
        });
        return Ok(view);
    }
    if whole.is_none() && bytes > LONGEST_LINE {
        view.line(format!(
            "the first line is longer than {}, and begins",
            size(LONGEST_LINE)
        ));
        view.line(cut(text));
        view.store("first_line", cut(text));
        return Ok(view);
    }
    let value: Value = serde_json::from_str(&lapidary_io::python_json(text))
        .with_context(|| format!("{}: line 1 is not valid JSON", path.display()))?;
    view.line("of the first line:");
    fields(&mut view, &value, all);
    if value.get("step").is_some()
        && let Some(last) = last_line(path)?
        && last != value
    {
        view.line("of the last line:");
        view.store("last_line", last.clone());
        if let Value::Object(map) = &last {
            for (field, value) in map.iter().take(FIRST) {
                view.line(format!("{field:<24} {}", brief(value, all)));
            }
        }
    }
    Ok(view)
}

/// The last whole line of a log, if it is JSON.
pub fn last_line(path: &Path) -> Result<Option<Value>> {
    let named = || path.display().to_string();
    let mut file = File::open(path).with_context(named)?;
    let length = file.metadata().with_context(named)?.len();
    let from = length.saturating_sub(LONGEST_LINE);
    file.seek(SeekFrom::Start(from)).with_context(named)?;
    let mut end = vec![];
    file.take(LONGEST_LINE)
        .read_to_end(&mut end)
        .with_context(named)?;
    let text = String::from_utf8_lossy(&end);
    let lines = text.lines().rev().filter(|line| !line.trim().is_empty());
    Ok(lines
        .take(2)
        .find_map(|line| serde_json::from_str(&lapidary_io::python_json(line)).ok()))
}

/// A recipe, or any other TOML.
fn toml_file(path: &Path, all: bool) -> Result<View> {
    let text = lapidary_io::read_text(path)?;
    let name = path.display().to_string();
    match Recipe::parse(&name, &text, &[]) {
        Ok(config) => {
            let mut view = View::new("recipe");
            view.fact("recipe", name);
            folders::recipe(&mut view, &config);
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
