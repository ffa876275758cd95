//! `lapidary bench --store DIR`: how fast a store of activations is written and read in shuffled
//! batches, beside `dd` on the same disk, in turn.

use super::timing::median;
use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Distribution, Tensor};
use lapidary_activations::{
    BatchSource, Excluded, Exclusion, NormalizationKind, RowPlace, Shard, Store, StoreBatches,
    StoreDtype, StoreManifest, StoreSettings, StoreWriter, StoredHook,
};
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

const HOOK: &str = "blocks.0.hook_resid_post";
const D: usize = 768;
/// Rows encoded at once, rows of a batch, rows of a shard and of the whole store: 1.6 GB in bf16.
const PART: usize = 8192;
const BATCH: usize = 2048;
const SHARD: usize = 8 * PART;
const ROWS: usize = 16 * SHARD;
/// Rows of the shuffle window.
const WINDOW: usize = SHARD;

/// Medians, in bytes on disk a second.
#[derive(Serialize)]
struct Findings {
    bytes: u64,
    write: f64,
    dd_write: f64,
    write_vs_dd: f64,
    /// The first pass in shuffled batches, decoded to f32, nothing of the store in the page cache:
    /// every shard is read against its checksum first.
    first_read: f64,
    first_read_vs_dd: f64,
    /// A later pass, nothing of the store in the page cache again.
    read: f64,
    dd_read: f64,
    read_vs_dd: f64,
}

pub fn run(folder: &Path, rounds: usize, json: bool) -> Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix("lapidary-bench")
        .tempdir_in(folder)
        .with_context(|| format!("{}: cannot make a folder there", folder.display()))?;
    let (store, plain) = (scratch.path().join("store"), scratch.path().join("dd"));
    let mut times = [vec![], vec![], vec![], vec![], vec![]];
    let mut bytes = 0;
    let rows = Tensor::<2>::random([PART, D], Distribution::Normal(0.0, 1.0), &Device::flex());
    let rows: Vec<f32> = rows.into_data().iter::<f32>().collect();
    for round in 0..=rounds {
        let (seconds, written) = write(&store, &rows)?;
        bytes = written;
        let dd_write = copy(&store, &plain)?;
        forget(&store)?;
        let opened = Arc::new(Store::open(&store)?);
        let first_read = read(&opened)?;
        forget(&store)?;
        let read = read(&opened)?;
        forget(&store)?;
        let dd_read = scan(&store)?;
        // The first round warms up.
        if round > 0 {
            let all = [seconds, dd_write, first_read, read, dd_read];
            for (times, seconds) in times.iter_mut().zip(all) {
                times.push(seconds);
            }
        }
    }
    let [write, dd_write, first_read, read, dd_read] =
        times.map(|times| bytes as f64 / median(times));
    let f = Findings {
        bytes,
        write,
        dd_write,
        write_vs_dd: write / dd_write,
        first_read,
        first_read_vs_dd: first_read / dd_read,
        read,
        dd_read,
        read_vs_dd: read / dd_read,
    };
    if json {
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&f)?)?;
        return Ok(());
    }
    let line = |name: &str, ours: f64, dd: f64| {
        format!(
            "{name:<28} {:>7.0} MB/s   dd {:>7.0} MB/s   {:.2} times dd",
            ours / 1e6,
            dd / 1e6,
            ours / dd
        )
    };
    writeln!(
        stdout(),
        "store of {ROWS} rows, d {D}, bf16, {:.2} GB",
        bytes as f64 / 1e9
    )?;
    writeln!(stdout(), "{}", line("write, synced", f.write, f.dd_write))?;
    writeln!(
        stdout(),
        "{}",
        line("read shuffled, first pass", f.first_read, f.dd_read)
    )?;
    writeln!(
        stdout(),
        "{}",
        line("read shuffled, later passes", f.read, f.dd_read)
    )?;
    Ok(())
}

/// Seconds to write the store anew, and its bytes.
fn write(folder: &Path, rows: &[f32]) -> Result<(f64, u64)> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    let settings = StoreSettings {
        model: "bench".into(),
        model_digest: String::new(),
        tokenizer_digest: String::new(),
        corpus: "random".into(),
        text_field: "text".into(),
        context: 128,
        prepend_bos: false,
        bos_token: None,
        attend_across_documents: false,
        batch_blocks: 16,
        hook_points: vec![StoredHook {
            name: HOOK.into(),
            d_in: D,
        }],
        dtype: StoreDtype::Bf16,
        shard_tokens: SHARD as u64,
        exclude: Exclusion {
            special_tokens: false,
            first_positions: 0,
            norm_multiple: None,
        },
    };
    let places = vec![
        RowPlace {
            token: 0,
            document: 0,
            position: 0
        };
        PART
    ];
    let start = Instant::now();
    let mut writer = StoreWriter::open(folder, settings)?;
    for part in 1..=(ROWS / PART) as u64 {
        writer.push(&places, &[rows])?;
        if writer.room() == 0 {
            writer.close_shard(part, 0, 0, Excluded::default())?;
        }
    }
    writer.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = writer
        .manifest()
        .shards
        .iter()
        .map(|shard| shard.bytes)
        .sum();
    Ok((seconds, bytes))
}

/// Seconds of one pass in shuffled batches.
fn read(store: &Arc<Store>) -> Result<f64> {
    let start = Instant::now();
    let mut batches = StoreBatches::new(
        store.clone(),
        &[HOOK],
        BATCH,
        WINDOW,
        NormalizationKind::None,
        0,
        &Device::flex(),
    )?;
    for _ in 0..ROWS / BATCH {
        batches.next_batch()?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds in which `dd` writes the same bytes in as many files, each synced; it reads them from
/// the page cache, where they are. Zeros would not do: some disks take them faster than other
/// numbers.
fn copy(store: &Path, folder: &Path) -> Result<f64> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir(folder)?;
    let mut seconds = 0.0;
    for (file, name) in shards(store)? {
        let to = format!("of={}", folder.join(name).display());
        seconds += dd(&[&file, &to, "bs=1M", "conv=fdatasync"])?;
    }
    Ok(seconds)
}

/// Seconds in which `dd` reads the store's own files, in their order.
fn scan(store: &Path) -> Result<f64> {
    let mut seconds = 0.0;
    for (file, _) in shards(store)? {
        seconds += dd(&[&file, "of=/dev/null", "bs=1M"])?;
    }
    Ok(seconds)
}

/// Takes a store's files out of the page cache.
fn forget(store: &Path) -> Result<()> {
    for (file, _) in shards(store)? {
        dd(&[&file, "of=/dev/null", "iflag=nocache", "count=0"])?;
    }
    Ok(())
}

/// The shards of a store as `dd` names its input, and their names.
fn shards(store: &Path) -> Result<Vec<(String, String)>> {
    let name = |shard: Shard| {
        let path = store.join(&shard.file);
        (format!("if={}", path.display()), shard.file)
    };
    let manifest = StoreManifest::read(store)?;
    Ok(manifest.shards.into_iter().map(name).collect())
}

fn dd(arguments: &[&str]) -> Result<f64> {
    let start = Instant::now();
    let status = Command::new("dd")
        .args(arguments)
        .stderr(Stdio::null())
        .status()
        .context("dd")?;
    ensure!(status.success(), "dd {}: failed", arguments.join(" "));
    Ok(start.elapsed().as_secs_f64())
}
