//! `lapidary harvest`.

use super::timing::memory;
use crate::arguments::{DeviceArgument, ModelArgument, TextArgument};
use crate::once::each_once;
use crate::progress::Watched;
use crate::progress::{Stage, note, say};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use lapidary::device::device_name;
use lapidary::first_batch;
use lapidary_activations::{
    BlockConfig, BlockStream, DEFAULT_NORM_MULTIPLE, Exclusion, FirstBatch, HarvestConfig, Store,
    StoreDtype, TEXT_FIELD, harvest_store,
};
use lapidary_model::HookPoint;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Bytes of a shard unless --shard-tokens says how many rows it has.
const SHARD: u64 = 128 << 20;

/// Write a model's activations on a text to a store, which can be used for any number of training
/// runs
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary harvest --hook blocks.2.hook_resid_post --tokens 1000000 --out acts
  lapidary harvest --model ./smollm2 --corpus text.jsonl --hook blocks.6.hook_resid_post,blocks.12.hook_resid_post --out acts
  lapidary train configs/quickstart.toml --set activations.store=acts

One pass of the model gives the activations at all hook points.
To continue after an interruption, run the same command again. To extend the store, run the command with a larger --tokens.
If any other setting has changed, the command is refused.")]
pub struct Harvest {
    #[command(flatten)]
    model: ModelArgument,
    /// Text: `embedded`, a file, a folder, or hf:OWNER/NAME (a dataset on the Hugging Face hub)
    #[arg(long, default_value = "embedded")]
    corpus: String,
    #[command(flatten)]
    text: TextArgument,
    /// Hook points, separated by commas, with TransformerLens's names
    #[arg(
        long,
        value_delimiter = ',',
        required = true,
        value_name = "HOOK,HOOK…"
    )]
    hook: Vec<HookPoint>,
    /// Number of tokens per block, including BOS
    #[arg(long, default_value_t = 128)]
    context: usize,
    /// Do not start sequences with the beginning-of-sequence token
    #[arg(long)]
    no_bos: bool,
    /// Number type of the stored activations
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    /// Number of activations per hook point in the finished store
    #[arg(long, default_value_t = 1_000_000)]
    tokens: u64,
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of tokens per shard (a file of the store); default: as many as fit into 128 MiB
    #[arg(long)]
    shard_tokens: Option<u64>,
    /// Number of blocks that go through the model at once
    #[arg(long, default_value_t = 16)]
    batch_blocks: usize,
    /// Also keep the activations at BOS and EOS
    #[arg(long)]
    keep_special: bool,
    /// Leave out the first N tokens of each sequence, including BOS
    #[arg(long, default_value_t = 0, value_name = "N")]
    skip_first: usize,
    /// Leave out activations, such as those at attention sinks, whose norm is more than TIMES × the
    /// median norm of the first batch of blocks; 0 means no limit
    #[arg(long, value_name = "TIMES", default_value_t = DEFAULT_NORM_MULTIPLE)]
    max_norm: f32,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    /// 4 bytes per number
    F32,
    /// 2 bytes per number, with the range of f32
    Bf16,
    /// 2 bytes per number, values up to 65,504
    F16,
    /// 1 byte per number, and one scale per token
    Int8,
}

impl From<Dtype> for StoreDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
            Dtype::F16 => Self::F16,
            Dtype::Int8 => Self::Int8,
        }
    }
}

impl Harvest {
    pub fn run(self) -> Result<()> {
        ensure!(self.tokens > 0, "--tokens: found 0, expected at least 1");
        each_once("--hook", &self.hook)?;
        ensure!(
            self.max_norm >= 0.0 && self.max_norm.is_finite(),
            "--max-norm: found {}, expected 0 or more",
            self.max_norm
        );
        ensure!(
            self.skip_first < self.context,
            "--skip-first: found {}, expected less than --context, {}: nothing would be left of a sequence",
            self.skip_first,
            self.context
        );
        let stage = Stage::new("load", 1);
        let device = self.device.open()?;
        let model = self.model.load(&device)?;
        let from = BlockConfig {
            corpus: self.corpus,
            text_field: self.text.text_field.unwrap_or_else(|| TEXT_FIELD.into()),
            context: self.context,
            prepend_bos: !self.no_bos,
            attend_across_documents: self.text.attend_across_documents,
        };
        let mut blocks = BlockStream::new(model.clone(), &from)?;
        let skipped = blocks.skipped_rows();
        let dtype = StoreDtype::from(self.dtype);
        let mut width = 0;
        for hook in &self.hook {
            width += (model.width(*hook)? * dtype.bytes()) as u64;
        }
        let config = HarvestConfig {
            hook_points: self.hook,
            dtype,
            tokens: self.tokens,
            shard_tokens: self.shard_tokens.unwrap_or((SHARD / width).max(1)),
            batch_blocks: self.batch_blocks,
            exclude: Exclusion {
                special_tokens: !self.keep_special,
                first_positions: self.skip_first,
                norm_multiple: (self.max_norm > 0.0).then_some(self.max_norm),
            },
        };
        stage.done(format!("{}; device {}", model.name(), device_name(&device)));
        let look = FirstBatch::of(
            &mut blocks,
            &config.hook_points,
            config.batch_blocks.max(1),
            &config.exclude,
        )?;
        first_batch::show(&Watched, &look);
        let before = match Store::exists(&self.out) {
            true => Store::open(&self.out)?.rows(),
            false => 0,
        };
        if before > 0 {
            say!(
                "{:>10} {} holds {before} activations already",
                "resume",
                self.out.display()
            );
        }
        let stage = Stage::new("harvest", self.tokens);
        let manifest = harvest_store(blocks, &config, &self.out, &mut |progress| {
            let speed = (progress.rows - progress.resumed) as f64 / stage.seconds();
            stage.at(progress.rows, format!("{speed:.0} tokens/s"));
        })?;
        first_batch::keep(&self.out, &look)?;
        let speed = (manifest.rows - before) as f64 / stage.seconds();
        let left_out = manifest.excluded;
        let peak = memory::peak().map_or(String::new(), |bytes| {
            format!("; peak memory {:.2} GB", bytes as f64 / 1e9)
        });
        stage.done(format!(
            "{} activations in {} shards, {speed:.0} tokens/s; left out: {} special tokens, {} first positions, {} by norm{peak}",
            manifest.rows,
            manifest.shards.len(),
            left_out.special_tokens,
            left_out.first_positions,
            left_out.norm,
        ));
        if let Some(text) = skipped.note() {
            note(text);
        }
        if manifest.rows < self.tokens {
            say!(
                "{:>10} the corpus ended before {} activations",
                "",
                self.tokens
            );
        }
        writeln!(stdout(), "{}", self.out.display())?;
        Ok(())
    }
}
