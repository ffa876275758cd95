//! A model that can be run.

use crate::attention::Cache;
use crate::config::ModelConfig;
use crate::hook::{BlockHook, HookPoint};
use crate::run::{HookedRun, RunOutput, Start};
use crate::tensor_file::TensorFile;
use crate::tokenizer::Tokenizer;
use crate::transformer::{Extras, Passed, forward, project, unembed};
use crate::weights::{Param, Weights};
use crate::{ModelError, family};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Tokens of one pass on the CPU, where several run side by side.
const TOKENS_AT_ONCE: usize = 512;

/// A decoder-only transformer on a device, with its tokenizer.
pub struct LanguageModel {
    name: String,
    config: ModelConfig,
    weights: Weights,
    tokenizer: Option<Tokenizer>,
    pub(crate) tokenizer_path: PathBuf,
    /// Tokens that are no text.
    pub(crate) special: BTreeSet<u32>,
    /// Tokens after which generation stops.
    pub(crate) stops: Vec<u32>,
    warnings: Vec<String>,
    /// Where a missing unembedding is reported.
    checkpoint: PathBuf,
    device: Device,
}

impl LanguageModel {
    /// A model of a checkpoint.
    pub(crate) fn from_parts(
        name: &str,
        mut config: ModelConfig,
        checkpoint: &TensorFile,
        tokenizer: Option<Tokenizer>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let (weights, warnings) = family::weights(&mut config, checkpoint, device)?;
        let mut model = Self::new(name, config, weights, tokenizer, device);
        model.warnings = warnings;
        model.checkpoint = checkpoint.path().into();
        Ok(model)
    }

    pub(crate) fn new(
        name: &str,
        config: ModelConfig,
        weights: Weights,
        tokenizer: Option<Tokenizer>,
        device: &Device,
    ) -> Self {
        let mut special: BTreeSet<u32> = config.bos.into_iter().collect();
        special.extend(&config.eos);
        // Some configurations fill up with an ordinary token.
        let pad = |token: &u32| tokenizer.as_ref().is_some_and(|t| t.is_special(*token));
        special.extend(config.pad.filter(pad));
        Self {
            name: name.into(),
            stops: config.eos.clone(),
            config,
            weights,
            tokenizer,
            tokenizer_path: "tokenizer.json".into(),
            special,
            warnings: vec![],
            checkpoint: name.into(),
            device: device.clone(),
        }
    }

    /// What a user should know about the model's files: an unembedding that the configuration
    /// denies, tensors that nothing reads.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Tokens that are no text, ascending: every beginning and end of sequence that `config.json`
    /// and `generation_config.json` name, and the token that fills up where the tokenizer calls it
    /// special.
    pub fn special_tokens(&self) -> Vec<u32> {
        self.special.iter().copied().collect()
    }

    /// Whether a token is one of [`Self::special_tokens`].
    pub fn is_special(&self, token: u32) -> bool {
        self.special.contains(&token)
    }

    /// Tokens after which [`generate`](crate::generate) stops: those of `generation_config.json`
    /// where there is one, else those of `config.json`.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stops
    }

    /// Whether the model can make logits.
    ///
    /// # Errors
    /// When its checkpoint is that of the bare model, without an unembedding.
    pub fn check_head(&self) -> Result<(), ModelError> {
        match self.weights.headless {
            false => Ok(()),
            true => Err(ModelError::NoHead {
                model: self.name.clone(),
                path: self.checkpoint.clone(),
            }),
        }
    }

    /// The folder's or the hub's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sizes and choices.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When the model's folder holds no `tokenizer.json`.
    pub fn tokenizer(&self) -> Result<&Tokenizer, ModelError> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| ModelError::NoTokenizer {
                model: self.name.clone(),
                path: self.tokenizer_path.clone(),
            })
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Changes weights; whether the unembedding is the embedding is read from them alone.
    pub(crate) fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    /// Leaves out all layers but the first `n`.
    pub(crate) fn cut_layers(&mut self, n: usize) {
        self.config.layers.truncate(n);
        self.weights.layers.truncate(n);
    }

    /// `W_E`, `[d_vocab, d_model]`.
    pub fn embedding(&self) -> Tensor<2> {
        self.weights.embed.clone()
    }

    /// `W_U`, `[d_model, d_vocab]`; the embedding's transpose where [`Self::check_head`] finds
    /// none.
    pub fn unembedding(&self) -> Tensor<2> {
        self.weights
            .unembed
            .as_ref()
            .unwrap_or(&self.weights.embed)
            .clone()
            .transpose()
    }

    /// Logits, `[n, d_vocab]`, of values at `ln_final.hook_normalized`, `[n, d_model]`.
    pub fn unembed(&self, normalized: Tensor<2>) -> Tensor<2> {
        unembed(&self.config, &self.weights, normalized)
    }

    /// The weight of the final norm, `[d_model]`: folded into the unembedding, it tells what a
    /// direction of the residual stream promotes.
    pub fn final_norm_weight(&self) -> Tensor<1> {
        self.weights.final_norm.weight.clone()
    }

    /// Width of the value at a hook point.
    ///
    /// # Errors
    /// When this model has no such point, or its width is that of the sequence.
    pub fn width(&self, hook: HookPoint) -> Result<usize, ModelError> {
        match self.width_in(hook, None)? {
            Some(width) => Ok(width),
            None => Err(ModelError::HookPointAbsent {
                point: hook.to_string(),
                reason: "with one width: it is as wide as the sequence is long".into(),
            }),
        }
    }

    /// Width of the value at a hook point when queries see `keys` positions; `None` if it depends
    /// on them and they are not known.
    fn width_in(&self, hook: HookPoint, keys: Option<usize>) -> Result<Option<usize>, ModelError> {
        use BlockHook as B;
        let c = &self.config;
        let absent = |reason: String| {
            Err(ModelError::HookPointAbsent {
                point: hook.to_string(),
                reason,
            })
        };
        if hook == HookPoint::Logits {
            self.check_head()?;
        }
        let width = match hook {
            HookPoint::Embed | HookPoint::FinalNorm => c.d_model,
            HookPoint::FinalNormScale => 1,
            HookPoint::PosEmbed if c.learned_positions => c.d_model,
            HookPoint::PosEmbed => return absent("its positions are rotary".into()),
            HookPoint::Logits => c.d_vocab,
            HookPoint::Block(layer, _) if layer >= c.n_layers() => {
                return absent(format!("its layers are 0 to {}", c.n_layers() - 1));
            }
            HookPoint::Block(layer, B::RotQ | B::RotK) if c.layers[layer].rope.is_none() => {
                return absent("its positions are not rotary".into());
            }
            HookPoint::Block(_, B::ResidMid) if c.parallel => {
                return absent("its attention and MLP work side by side".into());
            }
            HookPoint::Block(_, B::AttnIn) if c.n_kv_heads != c.n_heads => {
                let why = "its heads share keys and values; they have hook_q_input, hook_k_input and hook_v_input";
                return absent(why.into());
            }
            HookPoint::Block(_, B::MlpPreLinear) if !c.gated => {
                return absent("its MLP has no gate".into());
            }
            HookPoint::Block(_, B::Ln1PostScale | B::Ln1Post | B::Ln2PostScale | B::Ln2Post)
                if !c.post_norms =>
            {
                return absent("it normalizes no outputs".into());
            }
            HookPoint::Block(_, hook) => match hook {
                B::Q | B::Z | B::RotQ => c.n_heads * c.d_head,
                B::K | B::V | B::RotK => c.n_kv_heads * c.d_head,
                B::AttnScores | B::Pattern => return Ok(keys.map(|keys| c.n_heads * keys)),
                B::Result | B::AttnIn | B::QInput => c.n_heads * c.d_model,
                B::KInput | B::VInput => c.n_kv_heads * c.d_model,
                B::MlpPre | B::MlpPreLinear | B::MlpPost => c.d_mlp,
                B::Ln1Scale | B::Ln2Scale | B::Ln1PostScale | B::Ln2PostScale => 1,
                _ => c.d_model,
            },
        };
        Ok(Some(width))
    }

    /// How many heads lie side by side in the value at a hook point, if any do.
    pub fn heads(&self, hook: HookPoint) -> Option<usize> {
        use BlockHook as B;
        let HookPoint::Block(_, hook) = hook else {
            return None;
        };
        match hook {
            B::AttnIn
            | B::QInput
            | B::Q
            | B::RotQ
            | B::AttnScores
            | B::Pattern
            | B::Z
            | B::Result => Some(self.config.n_heads),
            B::KInput | B::VInput | B::K | B::RotK | B::V => Some(self.config.n_kv_heads),
            _ => None,
        }
    }

    /// Sequences of one length as a `[batch, pos]` tensor, every id checked against the vocabulary.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, or a sequence is empty or longer than the context.
    ///
    /// # Panics
    /// When the sequences differ in length.
    pub fn tokens<S: AsRef<[u32]>>(&self, sequences: &[S]) -> Result<Tensor<2, Int>, ModelError> {
        let pos = sequences.first().map_or(0, |s| s.as_ref().len());
        if pos == 0 {
            return Err(ModelError::NoTokens);
        }
        if pos > self.config.n_ctx {
            return Err(ModelError::Context {
                found: pos,
                n_ctx: self.config.n_ctx,
            });
        }
        let mut ids = Vec::with_capacity(sequences.len() * pos);
        for sequence in sequences {
            let sequence = sequence.as_ref();
            assert_eq!(
                sequence.len(),
                pos,
                "sequences of one batch have one length"
            );
            for (position, &id) in sequence.iter().enumerate() {
                if id as usize >= self.config.d_vocab {
                    return Err(ModelError::Token {
                        found: id.into(),
                        position,
                        d_vocab: self.config.d_vocab,
                    });
                }
                ids.push(id as i32);
            }
        }
        Ok(Tensor::from_data(
            TensorData::new(ids, [sequences.len(), pos]),
            &self.device,
        ))
    }

    /// One forward pass over `tokens`, `[batch, pos]` (from [`Self::tokens`], which checks them).
    ///
    /// ```
    /// # fn main() -> Result<(), lapidary_model::ModelError> {
    /// use burn::tensor::Device;
    /// use lapidary_model::{HookPoint, HookedRun, Intervention, LanguageModel};
    ///
    /// let model = LanguageModel::load("embedded", &Device::flex())?;
    /// let tokens = model.tokens(&[model.tokenizer()?.encode("The Congress of the United States")?])?;
    /// // Two heads of layer 1 switched off, at one position, and the attention pattern below kept as it was.
    /// let pattern: HookPoint = "blocks.0.attn.hook_pattern".parse()?;
    /// let clean = model.run(tokens.clone(), &HookedRun { capture: &[pattern], ..Default::default() })?;
    /// let mut interventions = clean.freeze(|_| true);
    /// let z = "blocks.1.attn.hook_z".parse()?;
    /// interventions.push(Intervention::zero(z).in_heads(&[0, 2]).at_positions(&[3]));
    /// let run = HookedRun { interventions: &interventions, logits: true, ..Default::default() };
    /// let logits = model.run(tokens, &run)?.logits; // [1, pos, d_vocab]
    /// # assert!(logits.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a hook point does not exist in this model, or an intervention or the segments do not
    /// fit.
    pub fn run(
        &self,
        tokens: Tensor<2, Int>,
        run: &HookedRun<'_>,
    ) -> Result<RunOutput, ModelError> {
        self.check(tokens.dims(), run, 0)?;
        let [batch, pos] = tokens.dims();
        let few = (TOKENS_AT_ONCE / pos).max(1);
        if self.device != Device::flex() || batch <= few || !run.interventions.is_empty() {
            let extras = Extras::default();
            return Ok(forward(&self.config, &self.weights, tokens, run, extras).output);
        }
        // Elementwise operations on the CPU use one thread each, and small pieces stay in its
        // cache: several passes side by side. Pieces are the same whatever the number of threads,
        // and so are the bits.
        // The unembedding is one product for all of them: its output is large, and putting pieces
        // together would copy it.
        let capture = run.capture;
        let logits = run.logits || capture.contains(&HookPoint::Logits);
        let before = capture.iter().filter(|at| **at != HookPoint::Logits);
        let before: Vec<HookPoint> = before.copied().collect();
        let (segments, rules) = (run.segments.as_ref(), run.rules);
        let (first, last_logits) = (run.start.as_ref(), run.last_logits);
        let starts: Vec<usize> = (0..batch).step_by(few).collect();
        let outputs: Vec<Passed> = starts
            .into_par_iter()
            .map(|start| {
                let n = few.min(batch - start);
                let run = HookedRun {
                    capture: &before,
                    logits,
                    interventions: &[],
                    last_logits,
                    start: first.map(|from| Start {
                        layer: from.layer,
                        resid_pre: from.resid_pre.clone().narrow(0, start, n),
                    }),
                    segments: segments.map(|s| s.clone().narrow(0, start, n)),
                    rules,
                };
                let tokens = tokens.clone().narrow(0, start, n);
                let extras = Extras {
                    without_unembedding: true,
                    ..Default::default()
                };
                forward(&self.config, &self.weights, tokens, &run, extras)
            })
            .collect();
        let mut parts: BTreeMap<HookPoint, Vec<Tensor<3>>> = BTreeMap::new();
        let mut last = vec![];
        for passed in outputs {
            for (at, value) in passed.output.captured {
                parts.entry(at).or_default().push(value);
            }
            last.extend(passed.before_unembedding);
        }
        let whole = parts.into_iter();
        let mut output = RunOutput {
            captured: whole
                .map(|(at, parts)| (at, Tensor::cat(parts, 0)))
                .collect(),
            logits: None,
        };
        if logits {
            let all = project(&self.config, &self.weights, Tensor::cat(last, 0));
            let pos = if run.last_logits { 1 } else { pos };
            let all = all.reshape([batch, pos, self.config.d_vocab]);
            if capture.contains(&HookPoint::Logits) {
                output.captured.insert(HookPoint::Logits, all.clone());
            }
            output.logits = run.logits.then_some(all);
        }
        Ok(output)
    }

    /// The same for tokens that follow those of `cache`, which takes them up.
    pub(crate) fn run_on(
        &self,
        tokens: Tensor<2, Int>,
        run: &HookedRun<'_>,
        cache: &mut Cache,
    ) -> Result<RunOutput, ModelError> {
        self.check(tokens.dims(), run, cache.len)?;
        let extras = Extras {
            cache: Some(cache),
            ..Default::default()
        };
        Ok(forward(&self.config, &self.weights, tokens, run, extras).output)
    }

    /// A scalar of the logits, and its gradient with respect to the values at hook points.
    ///
    /// ```
    /// # fn main() -> Result<(), lapidary_model::ModelError> {
    /// use burn::tensor::Device;
    /// use lapidary_model::{HookPoint, HookedRun, LanguageModel};
    ///
    /// let model = LanguageModel::load("embedded", &Device::flex())?;
    /// let tokens = model.tokens(&[model.tokenizer()?.encode("We the")?])?;
    /// let at: HookPoint = "blocks.1.hook_resid_post".parse()?;
    /// // The logit of token 7 after the last position: where in layer 1 does it come from?
    /// let gradients = model.gradients(tokens, &HookedRun::default(), &[at], &|logits| {
    ///     let last = logits.dims()[1] - 1;
    ///     logits.narrow(1, last, 1).narrow(2, 7, 1).sum()
    /// })?;
    /// println!("{} {:?}", gradients.value, gradients.at[&at].dims()); // [1, pos, d_model]
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn gradients(
        &self,
        tokens: Tensor<2, Int>,
        run: &HookedRun<'_>,
        at: &[HookPoint],
        scalar: &dyn Fn(Tensor<3>) -> Tensor<1>,
    ) -> Result<Gradients, ModelError> {
        self.check(tokens.dims(), run, 0)?;
        self.check_head()?;
        for hook in at {
            self.width_in(*hook, None)?;
        }
        if let Some(start) = &run.start {
            start.check_order(at.iter().copied())?;
        }
        let mut weights = self.weights.clone();
        weights.each(&mut |param| match param {
            Param::Vector(p) => *p = p.clone().autodiff(),
            Param::Matrix(p) => *p = p.clone().autodiff(),
        });
        let run = HookedRun {
            logits: true,
            ..run.clone()
        };
        let extras = Extras {
            differentiate: at,
            ..Default::default()
        };
        let passed = forward(&self.config, &weights, tokens.autodiff(), &run, extras);
        let value = scalar(passed.output.logits.expect("asked for"));
        let number = value.clone().inner().into_scalar::<f32>();
        if !value.is_tracked() {
            let zero = |(at, leaf): (HookPoint, Tensor<3>)| (at, leaf.inner());
            return Ok(Gradients {
                value: number,
                at: passed.leaves.into_iter().map(zero).collect(),
            });
        }
        let mut gradients = value.backward();
        let of = |(at, leaf): (HookPoint, Tensor<3>)| {
            let gradient = leaf.grad_remove(&mut gradients);
            (at, gradient.unwrap_or_else(|| leaf.inner()))
        };
        Ok(Gradients {
            value: number,
            at: passed.leaves.into_iter().map(of).collect(),
        })
    }

    fn check(
        &self,
        [batch, pos]: [usize; 2],
        run: &HookedRun<'_>,
        offset: usize,
    ) -> Result<(), ModelError> {
        if run.logits {
            self.check_head()?;
        }
        for hook in run.capture {
            self.width_in(*hook, None)?;
        }
        for intervention in run.interventions {
            let at = intervention.at;
            let width = self.width_in(at, Some(offset + pos))?;
            let width = width.expect("the number of keys is known");
            let (pos, offset) = match run.last_logits && at == HookPoint::Logits {
                true => (1, offset + pos - 1),
                false => (pos, offset),
            };
            intervention.check([batch, pos, width], self.heads(at), offset)?;
        }
        if let Some(start) = &run.start {
            self.check_start([batch, pos], run, start)?;
        }
        let Some(segments) = &run.segments else {
            return Ok(());
        };
        if segments.dims() != [batch, pos] {
            return Err(ModelError::Segments {
                problem: format!(
                    "found shape {:?}, expected that of the tokens, {:?}",
                    segments.dims(),
                    [batch, pos]
                ),
            });
        }
        let numbers: Vec<i64> = segments.clone().into_data().iter::<i64>().collect();
        for (sequence, row) in numbers.chunks(pos).enumerate() {
            if let Some(i) = row.windows(2).position(|pair| pair[1] < pair[0]) {
                return Err(ModelError::Segments {
                    problem: format!(
                        "document {} follows document {} at position {} of sequence {sequence}, expected numbers that do not decrease",
                        row[i + 1],
                        row[i],
                        i + 1
                    ),
                });
            }
        }
        Ok(())
    }

    /// Whether a pass can start there, and everything that it reads and changes comes later.
    fn check_start(
        &self,
        [batch, pos]: [usize; 2],
        run: &HookedRun<'_>,
        start: &Start,
    ) -> Result<(), ModelError> {
        let wrong = |problem: String| Err(ModelError::Start { problem });
        let (layers, d_model) = (self.config.layers.len(), self.config.d_model);
        if start.layer >= layers {
            let last = layers - 1;
            return wrong(format!(
                "found block {}, blocks are 0 to {last}",
                start.layer
            ));
        }
        let (found, expected) = (start.resid_pre.dims(), [batch, pos, d_model]);
        if found != expected {
            return wrong(format!(
                "found a residual stream {found:?}, expected {expected:?}"
            ));
        }
        let used = run.capture.iter().copied();
        start.check_order(used.chain(run.interventions.iter().map(|i| i.at)))
    }
}

/// What [`LanguageModel::gradients`] found.
#[derive(Debug)]
pub struct Gradients {
    /// The scalar.
    pub value: f32,
    /// Its gradient with respect to the value at each hook point asked for, `[batch, pos, width]`.
    pub at: BTreeMap<HookPoint, Tensor<3>>,
}
