//! `lapidary generate`.

use crate::arguments::{DeviceArgument, ModelArgument};
use anyhow::Result;
use clap::Args;
use lapidary_model::{Sampling, generate};
use std::io::{Write, stdout};

/// Continue a text
#[derive(Args)]
#[command(
    after_help = "Example:\n  lapidary generate \"The people of the United States\" --tokens 40"
)]
pub struct Generate {
    /// The text to continue
    prompt: String,
    #[command(flatten)]
    model: ModelArgument,
    #[command(flatten)]
    device: DeviceArgument,
    /// Most tokens to add
    #[arg(long, default_value_t = 60)]
    tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Draw among the likeliest tokens only; 0 means all
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Seed of the draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let model = self.model.load(&self.device.open()?)?;
        let tokenizer = model.tokenizer()?;
        let prompt: Vec<u32> = tokenizer
            .bos()
            .into_iter()
            .chain(tokenizer.encode(&self.prompt)?)
            .collect();
        let sampling = Sampling {
            max_tokens: self.tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            seed: self.seed,
        };
        let mut out = stdout();
        write!(out, "{}", self.prompt)?;
        let mut written = Ok(());
        let mut new: Vec<u32> = vec![];
        let mut shown = 0;
        generate(&model, &prompt, &sampling, &mut |token| {
            new.push(token);
            // A character may take several tokens: show only whole ones.
            let text = tokenizer.decode(&new);
            if !text.ends_with('\u{fffd}') && text.is_char_boundary(shown) {
                if written.is_ok() {
                    written = write!(out, "{}", &text[shown..]).and_then(|()| out.flush());
                }
                shown = text.len();
            }
        })?;
        written?;
        writeln!(out)?;
        Ok(())
    }
}
