//! `lapidary generate`.

use crate::arguments::{DeviceArgument, DictionaryArgument, SamplingArguments};
use crate::progress::{self, Watched};
use crate::terminal::{shown, visible};
use anyhow::{Result, bail};
use burn::tensor::{Device, Tensor};
use clap::Args;
use lapidary::dictionary_model::load_model;
use lapidary::{Prompt, highest_activations, steer_by};
use lapidary_coder::Dictionary;
use lapidary_features::{Steer, Steering};
use lapidary_model::{HookPoint, Intervention, LanguageModel, TensorFile};
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::sync::Arc;

/// Continue a text
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary generate \"The people of the United States\" --tokens 40
  lapidary generate \"My fellow citizens\" --dictionary out --latent 17 --strength 1.5
  lapidary generate \"My fellow citizens\" --dictionary out --latent 17,18 --clamp 0")]
pub struct Generate {
    /// The text to continue
    prompt: String,
    /// Language model: `embedded` (inside the program), a folder in Hugging Face layout, a GGUF
    /// file, or a name on the Hugging Face hub; default: the model that the dictionary names, else
    /// `embedded`
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Steer with latents of this dictionary (a run's folder, or a dictionary of any format). At
    /// the hook point that the dictionary reconstructs, --strength times the decoder row of each
    /// latent is added. With --clamp, the activation of each latent is set instead
    #[arg(long, value_name = "DIR", requires = "latent")]
    dictionary: Option<PathBuf>,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Steer with the only tensor of this safetensors file, a vector: --strength times the vector
    /// is added at --hook
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "dictionary",
        requires = "hook"
    )]
    direction: Option<PathBuf>,
    /// Numbers of the latents to steer with, separated by commas
    #[arg(
        long,
        requires = "dictionary",
        value_delimiter = ',',
        value_name = "N,N…"
    )]
    latent: Vec<usize>,
    /// Set the activation of each latent to this value at every position; 0 switches the latents
    /// off. Only for autoencoders
    #[arg(
        long,
        value_name = "VALUE",
        requires = "latent",
        conflicts_with = "strength",
        allow_negative_numbers = true
    )]
    clamp: Option<f32>,
    /// Hook point at which --direction is added
    #[arg(long, requires = "direction")]
    hook: Option<HookPoint>,
    /// Factor of the vector that is added; may be negative. With --latent, 1 means the latent's
    /// highest activation in the run's features.parquet. If there is no such table, or if the
    /// latent never fires in it, 1 means an activation of 1
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    strength: f32,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let sampling = self.sampling.sampling()?;
        for (option, value) in [("strength", Some(self.strength)), ("clamp", self.clamp)] {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                bail!("--{option}: found {value}, expected a finite number");
            }
        }
        let (model, dictionary) = self.open(&self.device.open()?)?;
        let prompt = Prompt::new(&model, &self.prompt)?;
        if prompt.outgrows(&model, sampling.max_tokens) {
            let n_ctx = model.config().n_ctx;
            note(&format!(
                "the model's context has {n_ctx} tokens; for a longer text, the oldest tokens are left out"
            ));
        }
        let latents = self.latent_steering(dictionary.as_ref())?;
        let mut steering = self.direction_steering(&model)?;
        steering.extend(latents.iter().map(Steering::intervention));
        let mut out = stdout();
        write!(out, "{}", shown(&self.prompt))?;
        let mut written = Ok(());
        prompt.continued(&model, &sampling, &steering, &mut |new| {
            if written.is_ok() {
                written = write!(out, "{}", shown(new)).and_then(|()| out.flush());
            }
        })?;
        written?;
        writeln!(out)?;
        Ok(())
    }

    /// The model, and the dictionary if one was given.
    fn open(&self, device: &Device) -> Result<(Arc<LanguageModel>, Option<Dictionary>)> {
        let Some(folder) = &self.dictionary else {
            let name = self.model.as_deref().unwrap_or("embedded");
            return Ok((load_model(&Watched, name, device)?, None));
        };
        let opened = self
            .from
            .open_with_model(folder, self.model.as_deref(), device)?;
        if let (None, Some(name)) = (&self.model, &opened.dictionary.provenance.model_name) {
            note(&format!("model {name}, as the dictionary says"));
        }
        Ok((opened.model, Some(opened.dictionary)))
    }

    /// The latents that were asked for.
    fn latent_steering(&self, dictionary: Option<&Dictionary>) -> Result<Vec<Steering>> {
        let (Some(folder), Some(dictionary)) = (&self.dictionary, dictionary) else {
            return Ok(vec![]);
        };
        let highest = match self.clamp {
            Some(_) => None,
            None => highest_activations(folder)?,
        };
        let steer = |latent: &usize| -> Result<Steering> {
            let unit = highest.as_ref().and_then(|highest| highest.get(*latent));
            let unit = unit.copied();
            match unit {
                Some(highest) if highest > 0.0 => note(&format!(
                    "latent {latent}: {} times its highest activation, {highest:.2}",
                    self.strength
                )),
                Some(_) => note(&format!(
                    "latent {latent} never fired on the run's tables: --strength counts in units of activation"
                )),
                None => {}
            }
            let steer = match self.clamp {
                Some(value) => Steer::Clamp(value),
                None => steer_by(self.strength, unit),
            };
            Ok(Steering::new(dictionary, *latent, steer)?)
        };
        self.latent.iter().map(steer).collect()
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

/// Says on standard error what a user should know of texts that others wrote.
fn note(text: &str) {
    progress::note(visible(text));
}
