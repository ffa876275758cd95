//! Folders: runs, sweeps, checkpoints, dictionaries, stores, models, tables.

use super::json_lines::last_line;
use super::recipes::recipe;
use super::tables;
use super::view::{View, brief, size};
use crate::commands::figures;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use lapidary::run_folder::RunFolder;
use lapidary::summary;
use lapidary_activations::{Store, StoreDtype};
use lapidary_coder::Description;
use lapidary_formats::saelens;
use lapidary_formats::{Format, FormatError, container::Container};
use lapidary_model::ModelConfig;
use lapidary_sae::Recipe;
use serde_json::{Value, json};
use std::path::Path;

/// Weights of a dictionary that are read whole where its format says nothing without them.
const READ_AT_MOST: u64 = 1 << 30;

pub fn view(path: &Path, all: bool) -> Result<View> {
    let run = RunFolder::new(path);
    if saelens::exists(&run.dictionary()) {
        return finished_run(&run, all);
    }
    if path.join(summary::FILE).is_file() {
        return tables::runs(&path.join(summary::FILE), all);
    }
    let manifest = path.join("manifest.json");
    if manifest.is_file() && format_of(&manifest).as_deref() == Some("lapidary checkpoint") {
        return checkpoint(&manifest);
    }
    if Store::exists(path) || Store::is_saelens_cache(path) {
        return store(path);
    }
    if run.config().is_file() && run.metrics_log().is_file() {
        return unfinished_run(&run);
    }
    let why = match dictionary(path, None, all) {
        Ok(view) => return Ok(view),
        Err(error) => error,
    };
    if matches!(
        why.downcast_ref::<FormatError>(),
        Some(FormatError::Unknown { .. })
    ) {
        if path.join("config.json").is_file() {
            return model(&path.join("config.json"));
        }
        if let Some(view) = tables(path)? {
            return Ok(view);
        }
        if let Some(view) = several_runs(path)? {
            return Ok(view);
        }
        let Some(FormatError::Unknown { found, .. }) = why.downcast_ref() else {
            return Err(why);
        };
        bail!(
            "{}: found {found}, expected a run (dictionary/), a sweep (runs.parquet), a checkpoint or a store (manifest.json), a dictionary, or a model (config.json)",
            path.display()
        );
    }
    Err(why)
}

fn finished_run(run: &RunFolder, all: bool) -> Result<View> {
    let mut view = View::new("run");
    let metrics = run.read_metrics()?;
    if let Some(metrics) = metrics.as_ref() {
        view.store("metrics", serde_json::to_value(metrics)?);
        for line in figures::headline(metrics).lines() {
            view.line(line);
        }
    }
    describe(&mut view, &run.dictionary(), None, all)?;
    for (name, file) in [
        ("report", run.report()),
        ("tables", run.features()),
        ("checkpoint", run.checkpoint()),
    ] {
        if file.exists() {
            view.fact(name, file.display().to_string());
        }
    }
    match metrics {
        Some(metrics) if all => {
            for line in figures::table(&metrics).lines() {
                view.line(line);
            }
        }
        Some(_) => view.line("all metrics: --all"),
        None => {}
    }
    Ok(view)
}

fn unfinished_run(run: &RunFolder) -> Result<View> {
    let mut view = View::new("run without a dictionary");
    view.line("a run that is not finished: no dictionary yet");
    recipe(&mut view, &Recipe::load(&run.config(), &[])?);
    if let Some(last) = last_line(&run.metrics_log())? {
        for field in ["step", "tokens", "loss", "fvu", "l0"] {
            if let Some(value) = last.get(field) {
                view.fact(field, value.clone());
            }
        }
    }
    if run.checkpoint().exists() {
        view.fact("checkpoint", run.checkpoint().display().to_string());
    }
    Ok(view)
}

/// A sweep's folder before its table is written: a run in each of its folders.
fn several_runs(path: &Path) -> Result<Option<View>> {
    let mut found = vec![];
    let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
    for entry in entries {
        let entry = entry.with_context(|| path.display().to_string())?;
        let run = RunFolder::new(&entry.path());
        if run.config().is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let finished = saelens::exists(&run.dictionary());
            let state = if finished { "finished" } else { "not finished" };
            let value = json!({"name": name, "finished": finished});
            found.push((value, format!("{name:<32} {state}")));
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    let mut view = View::new("sweep");
    view.line(format!("{} runs, no table of them yet", found.len()));
    view.list("runs", found, true);
    Ok(Some(view))
}

fn checkpoint(manifest: &Path) -> Result<View> {
    let read: Value = lapidary_io::read_json(manifest)?;
    let mut view = View::new("checkpoint");
    let folder = manifest.parent().unwrap_or(manifest);
    view.fact("checkpoint", folder.display().to_string());
    for field in ["format_version", "lapidary_version"] {
        if let Some(value) = read.get(field) {
            view.told(field, value.clone(), &brief(value, false));
        }
    }
    let coders = read.get("coders").and_then(Value::as_array);
    let coders = coders.cloned().unwrap_or_default().into_iter();
    let lines = coders.enumerate().map(|(number, coder)| {
        let number_of = |field: &str| coder.get(field).map_or("?".into(), |v| brief(v, false));
        let line = format!(
            "coder {number}: step {}, {} tokens, {} latents on {} dimensions",
            number_of("step"),
            number_of("tokens"),
            number_of("d_sae"),
            number_of("d_in")
        );
        (coder, line)
    });
    let lines: Vec<_> = lines.collect();
    view.list("coders", lines, true);
    Ok(view)
}

/// A folder of feature tables.
fn tables(path: &Path) -> Result<Option<View>> {
    let found: Vec<_> = ["features.parquet", "examples.parquet"]
        .into_iter()
        .map(|name| path.join(name))
        .filter(|table| table.is_file())
        .collect();
    if found.is_empty() {
        return Ok(None);
    }
    let mut view = View::new("tables");
    for table in found {
        let read = lapidary_features::describe_table(&table)?;
        let name = table.file_name().unwrap_or_default().to_string_lossy();
        let text = format!("{} rows, {} columns", read.rows, read.columns.len());
        view.told(&name, read.rows, &text);
    }
    Ok(Some(view))
}

/// A dictionary, in the format given or else the one found out.
pub fn dictionary(path: &Path, format: Option<Format>, all: bool) -> Result<View> {
    let mut view = View::new("dictionary");
    describe(&mut view, path, format, all)?;
    Ok(view)
}

fn describe(view: &mut View, path: &Path, format: Option<Format>, all: bool) -> Result<()> {
    let (format, described) = lapidary_formats::describe(path, format)?;
    let size_of_all = folder_size(path);
    let described = match described {
        Some(described) => described,
        None if size_of_all > READ_AT_MOST => {
            view.fact("dictionary", path.display().to_string());
            view.fact("format", format.to_string());
            view.told("size", size_of_all, &size(size_of_all));
            return headers(view, path, all);
        }
        None => {
            let dictionary = lapidary_formats::open(path, Some(format), &Device::flex())?;
            Description::of(&dictionary)
        }
    };
    view.fact("dictionary", path.display().to_string());
    view.fact("format", format.to_string());
    view.fact("architecture", described.architecture.to_string());
    let widths = match described.d_in == described.d_out {
        true => format!("{} dimensions", described.d_in),
        false => format!("{} dimensions to {}", described.d_in, described.d_out),
    };
    view.told(
        "latents",
        described.d_sae,
        &format!("{} on {widths}", described.d_sae),
    );
    view.store("d_in", described.d_in);
    view.store("d_out", described.d_out);
    if let Some(k) = described.k {
        view.fact("k", k);
    }
    if let Some(scheme) = lapidary_formats::quantization(path).ok().flatten() {
        let bits = scheme.bits.count();
        let scale = match scheme.granularity.group() {
            None => "row".to_owned(),
            Some(group) => format!("{group} values"),
        };
        view.told(
            "numbers",
            bits,
            &format!("int{bits}, one scale per {scale}"),
        );
    }
    provenance(view, &described);
    Ok(())
}

fn provenance(view: &mut View, described: &Description) {
    let p = &described.provenance;
    let listed = |names: Vec<String>| (!names.is_empty()).then(|| names.join(", "));
    let read = listed(p.sites.read());
    let written = listed(p.sites.written()).filter(|_| p.sites.transcodes());
    for (name, value) in [
        ("model", p.model_name.clone()),
        ("second model", p.sites.second_model().map(str::to_owned)),
        ("hook point", read),
        ("reconstructs", written),
        ("corpus", p.corpus.clone()),
    ] {
        if let Some(value) = value {
            view.fact(name, value);
        }
    }
    for (name, value) in [
        ("tokens", p.tokens),
        ("steps", p.steps),
        ("context", p.context.map(|n| n as u64)),
    ] {
        if let Some(value) = value {
            view.fact(name, value);
        }
    }
    if let Some(yes) = p.prepend_bos {
        let text = if yes { "before each sequence" } else { "none" };
        view.told("BOS", yes, text);
    }
    let loading = &p.loading;
    let of_head = |head: u64| (Value::from(head), format!("{head} alone"));
    for (name, said) in [
        (
            "model class",
            loading.class.clone().map(|c| (c.clone().into(), c)),
        ),
        (
            "loaded with",
            (!loading.options.is_empty()).then(|| {
                let options = Value::Object(loading.options.clone());
                (options.clone(), options.to_string())
            }),
        ),
        ("head", loading.head.map(of_head)),
        ("head out", loading.head_out.map(of_head)),
        (
            "positions",
            loading
                .positions
                .clone()
                .map(|v| (v.clone(), v.to_string())),
        ),
        (
            "left out",
            loading
                .excluded_tokens
                .clone()
                .map(|v| (v.clone(), format!("special tokens ({v})"))),
        ),
    ] {
        if let Some((value, text)) = said {
            view.told(name, value, &text);
        }
    }
}

/// Tensors of each file of weights of a dictionary, whose values are not read.
fn headers(view: &mut View, path: &Path, all: bool) -> Result<()> {
    let mut lines = vec![];
    for file in weights(path) {
        let opened = Container::open(&file)?;
        let tensors = opened.tensors()?;
        let within = file.file_name().unwrap_or_default().to_string_lossy();
        for (name, dtype, shape) in tensors.described() {
            let value = json!({"file": within, "name": name, "dtype": dtype, "shape": shape});
            lines.push((value, format!("{dtype:<5} {shape:?}  {name}  ({within})")));
        }
    }
    view.list("tensors", lines, all);
    Ok(())
}

/// The files of weights of a dictionary.
fn weights(path: &Path) -> Vec<std::path::PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let known = |file: &Path| {
        let ending = file.extension().and_then(|e| e.to_str());
        matches!(ending, Some("safetensors" | "pt" | "pth" | "npz"))
    };
    let mut found: Vec<_> = [path.to_path_buf(), path.join("checkpoints")]
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| file.is_file() && known(file))
        .collect();
    found.sort();
    found
}

fn folder_size(path: &Path) -> u64 {
    let sizes = weights(path).into_iter();
    sizes
        .filter_map(|file| file.metadata().ok())
        .map(|data| data.len())
        .sum()
}

pub fn model(config: &Path) -> Result<View> {
    let c = ModelConfig::read(config)?;
    let mut view = View::new("model");
    view.line(format!(
        "model of the family {:?}, {:.1} M weights",
        c.family,
        c.n_params() as f64 / 1e6
    ));
    view.line(format!(
        "d_model {}, layers {}, heads {} ({} key-value), d_head {}",
        c.d_model,
        c.n_layers(),
        c.n_heads,
        c.n_kv_heads,
        c.d_head
    ));
    view.line(format!(
        "d_mlp {}, vocabulary {}, context {}",
        c.d_mlp, c.d_vocab, c.n_ctx
    ));
    view.store("family", serde_json::to_value(c.family)?);
    view.store("weights", c.n_params());
    for (name, number) in [
        ("d_model", c.d_model),
        ("layers", c.n_layers()),
        ("heads", c.n_heads),
        ("key_value_heads", c.n_kv_heads),
        ("d_head", c.d_head),
        ("d_mlp", c.d_mlp),
        ("d_vocab", c.d_vocab),
        ("context", c.n_ctx),
    ] {
        view.store(name, number);
    }
    Ok(view)
}

fn store(path: &Path) -> Result<View> {
    let store = Store::open(path)?;
    let mut view = View::new("store");
    let Some(m) = store.manifest() else {
        let text = format!("{}, a cache of SAELens", path.display());
        view.told("store", path.display().to_string(), &text);
        let hooks: Vec<String> = store
            .hooks()
            .iter()
            .map(|h| hook_of(&h.name, h.d_in))
            .collect();
        view.fact("hook points", hooks.join(", "));
        let dtype = dtype_name(store.dtype());
        view.told(
            "rows",
            store.rows(),
            &format!("{} as {dtype}", store.rows()),
        );
        view.fact("context", store.context());
        return Ok(view);
    };
    let s = &m.settings;
    let bytes: u64 = m.shards.iter().map(|shard| shard.bytes).sum();
    let hooks = s.hook_points.iter().map(|h| hook_of(&h.name, h.d_in));
    let hooks: Vec<String> = hooks.collect();
    view.fact("store", path.display().to_string());
    view.fact("hook points", hooks.join(", "));
    view.told(
        "rows",
        m.rows,
        &format!("{} in {} shards", m.rows, m.shards.len()),
    );
    view.told(
        "size",
        bytes,
        &format!("{} as {}", size(bytes), dtype_name(s.dtype)),
    );
    view.fact(
        "left out",
        format!(
            "{} special tokens, {} first positions, {} by norm",
            m.excluded.special_tokens, m.excluded.first_positions, m.excluded.norm
        ),
    );
    view.fact("model", format!("{} ({})", s.model, s.model_digest));
    let ended = if m.corpus_ended { ", to its end" } else { "" };
    view.fact("corpus", format!("{}{ended}", s.corpus));
    view.fact("context", s.context);
    match s.bos_token {
        Some(token) => view.told("BOS", token, &format!("token {token} before each sequence")),
        None => view.told("BOS", Value::Null, "none"),
    }
    view.fact("made by", m.made_by.clone());
    Ok(view)
}

fn hook_of(name: &impl ToString, width: usize) -> String {
    format!("{} ({width} wide)", name.to_string())
}

fn dtype_name(dtype: StoreDtype) -> String {
    serde_json::to_value(dtype)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// `format` of a manifest.
fn format_of(path: &Path) -> Option<String> {
    let value: Value = lapidary_io::read_json(path).ok()?;
    Some(value.get("format")?.as_str()?.to_owned())
}
