//! `lapidary inspect`.

use super::figures;
use crate::progress::Stage;
use crate::run_folder::RunFolder;
use crate::terminal::shown;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Args;
use lapidary_activations::{Store, StoreDtype, StoreManifest};
use lapidary_features::{read_examples, read_features};
use lapidary_formats::container::Container;
use lapidary_model::{GgufDescription, ModelConfig};
use lapidary_sae::Dictionary;
use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Say what a file or folder holds: a run, a dictionary, a store of activations, a model, a GGUF file, tensors, a table
#[derive(Args)]
#[command(
    after_help = "Examples:\n  lapidary inspect out\n  lapidary inspect out/features/features.parquet\n  lapidary inspect x.safetensors\n  lapidary inspect acts --verify"
)]
pub struct Inspect {
    /// What to look at
    #[arg(value_name = "FILE_OR_FOLDER")]
    path: PathBuf,
    /// Read every byte of a store of activations against its checksums
    #[arg(long)]
    verify: bool,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let path = &self.path;
        if self.verify && !Store::exists(path) {
            bail!(
                "{}: --verify is for stores of activations, and this is none",
                path.display()
            );
        }
        if self.verify {
            return verify(path);
        }
        if path.is_dir() {
            return folder(path);
        }
        if !path.exists() {
            bail!("{}: there is nothing", path.display());
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors" | "pt" | "npz") => tensors(path),
            Some("parquet") => table(path),
            Some("gguf") => gguf(path),
            Some("json" | "jsonl" | "toml") => {
                let text =
                    std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
                write!(stdout(), "{}", shown(&text))?;
                Ok(())
            }
            _ => bail!(
                "{}: found another extension, expected .safetensors, .pt, .npz, .gguf, .parquet, .json, .jsonl or .toml",
                path.display()
            ),
        }
    }
}

fn folder(path: &Path) -> Result<()> {
    let run = RunFolder::new(path);
    if Dictionary::exists(&run.dictionary()) {
        dictionary(&run.dictionary())?;
        if let Some(metrics) = run.read_metrics()? {
            write!(stdout(), "{}", figures::table(&metrics))?;
        }
        for (name, file) in [
            ("report", run.report()),
            ("tables", run.features()),
            ("checkpoint", run.checkpoint()),
        ] {
            if file.exists() {
                writeln!(stdout(), "{name:<12} {}", file.display())?;
            }
        }
        return Ok(());
    }
    if lapidary_formats::exists(path) {
        return dictionary(path);
    }
    if Store::exists(path) || Store::is_saelens_cache(path) {
        return store(path);
    }
    if path.join("config.json").exists() {
        let c = ModelConfig::read(&path.join("config.json"))?;
        writeln!(
            stdout(),
            "model of the family {:?}, {:.1} M weights",
            c.family,
            c.n_params() as f64 / 1e6
        )?;
        writeln!(
            stdout(),
            "d_model {}, layers {}, heads {} ({} key-value), d_head {}",
            c.d_model,
            c.n_layers(),
            c.n_heads,
            c.n_kv_heads,
            c.d_head
        )?;
        writeln!(
            stdout(),
            "d_mlp {}, vocabulary {}, context {}",
            c.d_mlp,
            c.d_vocab,
            c.n_ctx
        )?;
        return Ok(());
    }
    bail!(
        "{}: found neither a run (dictionary/), a dictionary, a store (manifest.json) nor a model (config.json)",
        path.display()
    )
}

fn store(path: &Path) -> Result<()> {
    let store = Store::open(path)?;
    let Some(m) = store.manifest() else {
        return cache(path, &store);
    };
    let s = &m.settings;
    let bytes: u64 = m.shards.iter().map(|shard| shard.bytes).sum();
    let hooks: Vec<String> = s
        .hook_points
        .iter()
        .map(|h| format!("{} ({} wide)", h.name, h.d_in))
        .collect();
    let left_out = format!(
        "{} special tokens, {} first positions, {} by norm",
        m.excluded.special_tokens, m.excluded.first_positions, m.excluded.norm
    );
    let ended = if m.corpus_ended { ", to its end" } else { "" };
    for (name, value) in [
        ("store", path.display().to_string()),
        ("hook points", hooks.join(", ")),
        ("rows", format!("{} in {} shards", m.rows, m.shards.len())),
        (
            "size",
            format!("{:.1} MB as {}", bytes as f64 / 1e6, dtype_name(s.dtype)),
        ),
        ("left out", left_out),
        ("model", format!("{} ({})", s.model, s.model_digest)),
        ("corpus", format!("{}{ended}", s.corpus)),
        ("context", s.context.to_string()),
        (
            "BOS",
            match s.bos_token {
                Some(token) => format!("token {token} before each sequence"),
                None => "none".into(),
            },
        ),
        ("made by", m.made_by.clone()),
    ] {
        writeln!(stdout(), "{name:<12} {value}")?;
    }
    Ok(())
}

/// What a cache of SAELens tells.
fn cache(path: &Path, store: &Store) -> Result<()> {
    writeln!(
        stdout(),
        "store        {}, a cache of SAELens",
        path.display()
    )?;
    for hook in store.hooks() {
        writeln!(stdout(), "hook points  {} ({} wide)", hook.name, hook.d_in)?;
    }
    writeln!(
        stdout(),
        "rows         {} as {}",
        store.rows(),
        dtype_name(store.dtype())
    )?;
    writeln!(stdout(), "context      {}", store.context())?;
    Ok(())
}

fn dtype_name(dtype: StoreDtype) -> String {
    serde_json::to_value(dtype)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn verify(path: &Path) -> Result<()> {
    let total = StoreManifest::read(path)?
        .shards
        .iter()
        .map(|s| s.bytes)
        .sum();
    let stage = Stage::new("verify", total);
    let manifest = Store::verify(path, &mut |bytes| {
        stage.at(
            bytes,
            format!("{:.0} MB/s", bytes as f64 / 1e6 / stage.seconds()),
        );
    })?;
    stage.done(format!("{:.1} MB", total as f64 / 1e6));
    writeln!(
        stdout(),
        "{} rows in {} shards: every byte is as it was written",
        manifest.rows,
        manifest.shards.len()
    )?;
    Ok(())
}

fn dictionary(path: &Path) -> Result<()> {
    let format = lapidary_formats::detect(path)?;
    let dictionary = lapidary_formats::open(path, Some(format), &Device::flex())?;
    let (coder, p) = (&dictionary.coder, &dictionary.provenance);
    writeln!(stdout(), "dictionary   {}", path.display())?;
    writeln!(stdout(), "format       {format}")?;
    writeln!(stdout(), "architecture {}", coder.architecture.name())?;
    let widths = super::features::widths(coder);
    writeln!(stdout(), "latents      {} on {widths}", coder.d_sae())?;
    for (name, value) in [
        ("model", p.model_name.clone()),
        ("second model", p.other_model.clone()),
        (
            "hook point",
            dictionary
                .read_hook_points()
                .ok()
                .map(|h| lapidary_features::names(&h))
                .or_else(|| p.other_model.as_ref().map(|_| p.hook_points.join(", ")))
                .or(p.hook_point.clone()),
        ),
        ("reconstructs", super::features::reconstructs(&dictionary)),
        ("corpus", p.corpus.clone()),
        ("tokens", p.tokens.map(|n| n.to_string())),
        ("steps", p.steps.map(|n| n.to_string())),
        ("context", p.context.map(|n| n.to_string())),
        (
            "BOS",
            p.prepend_bos
                .map(|yes| if yes { "before each sequence" } else { "none" }.to_string()),
        ),
    ] {
        if let Some(value) = value {
            writeln!(stdout(), "{name:<12} {value}")?;
        }
    }
    Ok(())
}

fn tensors(path: &Path) -> Result<()> {
    let file = Container::open(path)?;
    let tensors = file.tensors()?;
    for (name, dtype, shape) in tensors.described() {
        writeln!(stdout(), "{dtype:<5} {shape:?}  {}", shown(name))?;
    }
    Ok(())
}

fn gguf(path: &Path) -> Result<()> {
    let file = GgufDescription::read(path)?;
    let mut out = stdout();
    let weights = |shape: &[usize]| shape.iter().product::<usize>();
    let all: usize = file.tensors.iter().map(|(.., shape)| weights(shape)).sum();
    writeln!(
        out,
        "GGUF model of the architecture {}, {:.1} M weights in {} tensors",
        file.architecture,
        all as f64 / 1e6,
        file.tensors.len()
    )?;
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (_, encoding, shape) in &file.tensors {
        let (tensors, numbers) = kinds.entry(encoding).or_default();
        *tensors += 1;
        *numbers += weights(shape);
    }
    for (encoding, (tensors, numbers)) in kinds {
        writeln!(
            out,
            "{encoding:<6} {tensors:>5} tensors, {:.1} M weights",
            numbers as f64 / 1e6
        )?;
    }
    for (field, value) in &file.fields {
        let line: String = value.chars().take(80).collect();
        writeln!(out, "{field} = {}", shown(&line.replace('\n', "⏎")))?;
    }
    Ok(())
}

fn table(path: &Path) -> Result<()> {
    match (read_features(path), read_examples(path)) {
        (Ok(rows), _) => {
            writeln!(
                stdout(),
                "{} latents, {} dead",
                rows.len(),
                rows.iter().filter(|r| r.dead).count()
            )?;
            let mut rows: Vec<_> = rows.iter().filter(|r| !r.dead).collect();
            rows.sort_by(|a, b| b.firing_density.total_cmp(&a.firing_density));
            for row in rows.iter().take(20) {
                let words: Vec<String> = row
                    .top_tokens
                    .iter()
                    .take(6)
                    .map(|t| format!("{:?}", t.text))
                    .collect();
                writeln!(
                    stdout(),
                    "{:>7}  density {:.5}  max {:>8.3}  {}",
                    row.feature_id,
                    row.firing_density,
                    row.max_activation,
                    words.join(" ")
                )?;
            }
            Ok(())
        }
        (_, Ok(rows)) => {
            writeln!(stdout(), "{} contexts", rows.len())?;
            for row in rows.iter().take(20) {
                writeln!(
                    stdout(),
                    "{:>7}  {:>8.3}  {}",
                    row.feature_id,
                    row.max_activation,
                    shown(&row.tokens.concat().replace('\n', "⏎"))
                )?;
            }
            Ok(())
        }
        (Err(error), Err(_)) => Err(error.into()),
    }
}
