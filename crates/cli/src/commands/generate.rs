//! `lapidary generate`.

use crate::arguments::{DeviceArgument, DictionaryArgument, ModelArgument};
use anyhow::{Result, bail};
use burn::tensor::Tensor;
use clap::Args;
use lapidary_features::{Steer, Steering};
use lapidary_model::{HookPoint, Intervention, LanguageModel, Sampling, TensorFile, generate};
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Continue a text
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary generate \"The people of the United States\" --tokens 40
  lapidary generate \"My fellow citizens\" --dictionary out/dictionary --latent 17 --strength 8
  lapidary generate \"My fellow citizens\" --dictionary out/dictionary --latent 17 --clamp 0")]
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
    /// Draw among the fewest likeliest tokens whose probabilities reach this sum; 1 means all
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Steer with a latent of this dictionary, of any format: its decoder row times --strength is added at the
    /// dictionary's hook point, or its activation is set to --clamp
    #[arg(long, value_name = "DIR", requires = "latent")]
    dictionary: Option<PathBuf>,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Steer with a direction: the one vector of a safetensors file, added at --hook
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "dictionary",
        requires = "hook"
    )]
    direction: Option<PathBuf>,
    /// Which latent
    #[arg(long, requires = "dictionary")]
    latent: Option<usize>,
    /// Set the latent's activation to this value everywhere; 0 switches it off
    #[arg(
        long,
        value_name = "VALUE",
        requires = "latent",
        conflicts_with = "strength",
        allow_negative_numbers = true
    )]
    clamp: Option<f32>,
    /// Where --direction is added
    #[arg(long, requires = "direction")]
    hook: Option<HookPoint>,
    /// Factor of what is added, which may be negative
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    strength: f32,
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
            top_p: self.top_p,
            seed: self.seed,
        };
        let latent = self.latent_steering(&model)?;
        let mut steering = self.direction_steering(&model)?;
        steering.extend(latent.iter().map(Steering::intervention));
        let mut out = stdout();
        write!(out, "{}", self.prompt)?;
        let mut written = Ok(());
        let mut new: Vec<u32> = vec![];
        let mut shown = 0;
        generate(&model, &prompt, &sampling, &steering, &mut |token| {
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

    /// The latent that was asked for.
    fn latent_steering(&self, model: &LanguageModel) -> Result<Option<Steering>> {
        let (Some(folder), Some(latent)) = (&self.dictionary, self.latent) else {
            return Ok(None);
        };
        let dictionary = self.from.open(folder, model.device())?;
        let steer = match self.clamp {
            Some(value) => Steer::Clamp(value),
            None => Steer::Add(self.strength),
        };
        Ok(Some(Steering::new(&dictionary, latent, steer)?))
    }

    /// The direction that was asked for.
    fn direction_steering(&self, model: &LanguageModel) -> Result<Vec<Intervention<'static>>> {
        let (Some(file), Some(hook)) = (&self.direction, self.hook) else {
            return Ok(vec![]);
        };
        let tensors = TensorFile::open(file)?;
        let names: Vec<&str> = tensors.tensors().map(|(name, ..)| name).collect();
        let [name] = names[..] else {
            bail!(
                "{}: found {} tensors, expected one",
                file.display(),
                names.len()
            );
        };
        let (_, values) = tensors.read(name)?;
        let direction = Tensor::<1>::from_floats(values.as_slice(), model.device());
        Ok(vec![Intervention::add(hook, direction * self.strength)])
    }
}
