//! `lapidary run`.

use crate::arguments::{DeviceArgument, ModelArgument};
use crate::once::each_once;
use anyhow::{Result, bail};
use clap::{ArgGroup, Args};
use lapidary_io::check_target;
use lapidary_io::tensors::TensorWriter;
use lapidary_model::{HookPoint, HookedRun};
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Run a model on one sequence and save the values at hook points
#[derive(Args)]
#[command(group(ArgGroup::new("input").required(true).args(["tokens", "text"])), after_help = "Examples:
  lapidary run --text \"My fellow citizens\" --capture blocks.2.hook_resid_post --out x.safetensors
  lapidary run --model openai-community/gpt2 --tokens 464,3139,286 --capture blocks.0.attn.hook_z,logits --out x.safetensors

The file has one tensor of shape [tokens, width] per hook point, with the name of the hook point. The metadata of the file has the
key `lapidary`: JSON with the name of the model (`model`) and the token ids (`tokens`).")]
pub struct Run {
    #[command(flatten)]
    model: ModelArgument,
    #[command(flatten)]
    device: DeviceArgument,
    /// Token ids, separated by commas. No token is added
    #[arg(long, value_delimiter = ',', value_name = "ID,ID…")]
    tokens: Vec<u32>,
    /// Text. If the model has a beginning-of-sequence token, it is put before the text
    #[arg(long)]
    text: Option<String>,
    /// Do not put the beginning-of-sequence token before --text
    #[arg(long, conflicts_with = "tokens")]
    no_bos: bool,
    /// Hook points, separated by commas, with TransformerLens's names; `logits` for the logits
    #[arg(
        long,
        value_delimiter = ',',
        required = true,
        value_name = "HOOK,HOOK…"
    )]
    capture: Vec<HookPoint>,
    /// Safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Run {
    pub fn run(mut self) -> Result<()> {
        each_once("--capture", &self.capture)?;
        check_target(&self.out)?;
        let model = self.model.load(&self.device.open()?)?;
        if let Some(text) = &self.text {
            let tokenizer = model.tokenizer()?;
            let bos = if self.no_bos { None } else { tokenizer.bos() };
            self.tokens = bos.into_iter().chain(tokenizer.encode(text)?).collect();
            if self.tokens.is_empty() {
                bail!("--text holds no token");
            }
        }
        let capture = &self.capture;
        let run = HookedRun {
            capture,
            logits: capture.contains(&HookPoint::Logits),
            ..Default::default()
        };
        let output = model.run(model.tokens(&[&self.tokens])?, &run)?;
        let (mut file, mut written) = (TensorWriter::default(), String::new());
        for (hook, value) in output.captured {
            let [_, pos, width] = value.dims();
            let values: Vec<f32> = value.into_data().iter::<f32>().collect();
            file.f32(&hook.to_string(), &[pos, width], &values);
            written += &format!("{hook}  {:?}\n", [pos, width]);
        }
        let about = serde_json::json!({ "model": model.name(), "tokens": self.tokens });
        let metadata = [("lapidary".to_owned(), about.to_string())].into();
        file.write_atomically(&self.out, Some(metadata))?;
        write!(stdout(), "{written}")?;
        Ok(())
    }
}
