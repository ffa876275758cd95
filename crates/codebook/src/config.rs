//! The config file of a codebook training.

use crate::memory::{TRAINED, product, too_large};
use crate::tokfsm::TokFsmOptions;
use crate::{CodebookError, CodebookOptions, Place};
use lapidary_io::settings::{FromToml, Named, Reader};
use lapidary_model::training::warmup_then_cosine;
use std::path::Path;

/// What the model is trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum DataOptions {
    /// Walks of a finite-state machine.
    TokFsm(TokFsmOptions),
    /// Text.
    Text {
        /// Training text: a file, a folder, a data set of the hub, or `embedded`.
        corpus: String,
        /// Text for the metrics.
        heldout: String,
        /// Tokens of a sequence.
        context: usize,
    },
}

/// The model that the codebooks are put into.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelOptions {
    /// A trained one, by its name.
    Trained(String),
    /// Random weights of a small Llama-family model.
    Random {
        /// Width of the residual stream.
        d_model: usize,
        /// Layers.
        n_layers: usize,
        /// Heads a layer.
        n_heads: usize,
        /// Width of the MLP's hidden layer.
        d_mlp: usize,
    },
}

/// Where codes start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initialization {
    /// Standard normal numbers.
    Normal,
    /// Activations of the first batch.
    Data,
    /// Centres of clusters of the first batch's activations.
    KMeans,
}

impl Named for Initialization {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Normal, "normal"),
        (Self::Data, "data"),
        (Self::KMeans, "k_means"),
    ];
}

/// How the learning rate changes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// It does not.
    Constant,
    /// It falls along a cosine to a twentieth.
    Cosine,
}

impl Named for Schedule {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::Constant, "constant"), (Self::Cosine, "cosine")];
}

/// A whole config: model, data, codebooks and training.
#[derive(Debug, Clone, PartialEq)]
pub struct CodebookConfig {
    /// Seeds weights, codes and the order of the data.
    pub seed: u64,
    /// What the model is trained on.
    pub data: DataOptions,
    /// The model.
    pub model: ModelOptions,
    /// Where codebooks are put; none trains the model without any, for comparison.
    pub places: Vec<Place>,
    /// In which layers; all if empty.
    pub layers: Vec<usize>,
    /// Sizes and choices of each codebook.
    pub codebook: CodebookOptions,
    /// Where codes start.
    pub init: Initialization,
    /// Steps between two replacements of codes that were not chosen since the last replacement. The
    /// first is made in the step after so many. 0: never.
    pub replace_every: u64,
    /// Weight decay of the codes.
    pub code_weight_decay: f32,
    /// The learning rate of the codes, as a multiple of the model's.
    pub code_lr_factor: f32,
    /// Steps in all.
    pub steps: u64,
    /// Sequences a step.
    pub batch: usize,
    /// Learning rate.
    pub lr: f32,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// What follows them.
    pub schedule: Schedule,
    /// Weight decay of the model.
    pub weight_decay: f32,
    /// Steps between two lines of the log.
    pub log_every: u64,
    /// Steps between two checkpoints; 0: only when the run is interrupted.
    pub checkpoint_every: u64,
    /// Sequences of the evaluation.
    pub evaluation_sequences: usize,
    /// Steps between two evaluations during training; 0: only after the last step.
    pub evaluation_every: u64,
}

impl CodebookConfig {
    /// Reads a config; each of `set` is `key=value` and wins over the file.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, has an unknown key or a value that cannot be.
    pub fn load(path: &Path, set: &[String]) -> Result<Self, CodebookError> {
        let text = lapidary_io::read_text(path)?;
        Self::parse(&path.display().to_string(), &text, set)
    }

    /// The same for a text, named `file` in errors.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(file: &str, text: &str, set: &[String]) -> Result<Self, CodebookError> {
        let mut r = Reader::new(file, text, set)?;
        let seed = r.or("seed", 0)?;
        let kind = r.one_of("data.kind", &["tokfsm", "text"], "tokfsm")?;
        let data = match kind.as_str() {
            "tokfsm" => {
                let d = TokFsmOptions::default();
                let options = TokFsmOptions {
                    states: r.or("data.states", d.states)?,
                    edges: r.or("data.edges", d.edges)?,
                    digits: r.or("data.digits", d.digits)?,
                    base: r.or("data.base", d.base)?,
                    sequence_states: r.or("data.sequence_states", d.sequence_states)?,
                    seed,
                };
                options.check().map_err(|(key, found, expected)| {
                    r.wrong(&format!("data.{key}"), found, &expected)
                })?;
                DataOptions::TokFsm(options)
            }
            _ => DataOptions::Text {
                corpus: r.or("data.corpus", "embedded".to_owned())?,
                heldout: r.or("data.heldout", "embedded:heldout".to_owned())?,
                context: r.or("data.context", 256)?,
            },
        };
        let source = r.or("model.source", "random".to_owned())?;
        let model = match source.as_str() {
            "random" => ModelOptions::Random {
                d_model: r.or("model.d_model", 128)?,
                n_layers: r.or("model.n_layers", 4)?,
                n_heads: r.or("model.n_heads", 4)?,
                d_mlp: r.or("model.d_mlp", 512)?,
            },
            _ => ModelOptions::Trained(source),
        };
        let names = r.or("codebook.places", vec!["attn_preproj".to_owned()])?;
        let mut places = vec![];
        for name in names {
            match Place::named(&name) {
                Some(place) if !places.contains(&place) => places.push(place),
                _ => {
                    let all = Place::NAMES.iter().map(|(_, name)| format!("\"{name}\""));
                    let all = all.collect::<Vec<_>>().join(", ");
                    let expected = format!("each of {all} at most once");
                    return Err(r
                        .wrong("codebook.places", format!("\"{name}\""), &expected)
                        .into());
                }
            }
        }
        let d = CodebookOptions::default();
        let codebook = CodebookOptions {
            n_codes: r.or("codebook.n_codes", d.n_codes)?,
            k: r.or("codebook.k", d.k)?,
            assignment: r.or("codebook.assignment", d.assignment)?,
            combination: r.or("codebook.combination", d.combination)?,
            layer_norm: r.or("codebook.layer_norm", d.layer_norm)?,
            loss: r.or("codebook.loss", d.loss)?,
            mse_weight: r.or("codebook.mse_weight", f64::from(d.mse_weight))? as f32,
            commitment: r.or("codebook.commitment", f64::from(d.commitment))? as f32,
        };
        let config = Self {
            seed,
            data,
            model,
            places,
            layers: r.or("codebook.layers", vec![])?,
            codebook,
            init: r.or("codebook.init", Initialization::Normal)?,
            replace_every: r.or("codebook.replace_every", 100)?,
            code_weight_decay: r.or("codebook.weight_decay", 0.01)? as f32,
            code_lr_factor: r.or("codebook.lr_factor", 1.0)? as f32,
            steps: r.or("training.steps", 20_000)?,
            batch: r.or("training.batch", 512)?,
            lr: r.or("training.lr", 1e-3)? as f32,
            warmup_steps: r.or("training.warmup_steps", 0)?,
            schedule: r.or("training.schedule", Schedule::Constant)?,
            weight_decay: r.or("training.weight_decay", 0.1)? as f32,
            log_every: r.or("training.log_every", 10)?,
            checkpoint_every: r.or("training.checkpoint_every", 1000)?,
            evaluation_sequences: r.or("evaluation.sequences", 64)?,
            evaluation_every: r.or("evaluation.every", 0)?,
        };
        config.check(&r)?;
        r.finish()?;
        Ok(config)
    }

    fn check(&self, r: &Reader) -> Result<(), CodebookError> {
        let mut least = vec![
            ("codebook.n_codes", self.codebook.n_codes, 1),
            ("codebook.k", self.codebook.k, 1),
            ("training.batch", self.batch, 1),
            ("evaluation.sequences", self.evaluation_sequences, 1),
        ];
        if let DataOptions::Text { context, .. } = &self.data {
            least.push(("data.context", *context, 2));
        }
        if let ModelOptions::Random {
            d_model,
            n_layers,
            n_heads,
            d_mlp,
        } = &self.model
        {
            least.extend([
                ("model.d_model", *d_model, 2),
                ("model.n_layers", *n_layers, 1),
                ("model.n_heads", *n_heads, 1),
                ("model.d_mlp", *d_mlp, 1),
            ]);
        }
        for (key, found, least) in least {
            if found < least {
                return Err(r.wrong(key, found, &format!("at least {least}")).into());
            }
        }
        for (key, found) in [
            ("training.steps", self.steps),
            ("training.log_every", self.log_every),
        ] {
            if found == 0 {
                return Err(r.wrong(key, found, "at least 1").into());
            }
        }
        // Codes are numbered by i32.
        if i32::try_from(self.codebook.n_codes).is_err() {
            let expected = format!("at most {}", i32::MAX);
            return Err(r
                .wrong("codebook.n_codes", self.codebook.n_codes, &expected)
                .into());
        }
        if self.codebook.k > self.codebook.n_codes {
            let expected = format!("at most codebook.n_codes = {}", self.codebook.n_codes);
            return Err(r.wrong("codebook.k", self.codebook.k, &expected).into());
        }
        let factors = [
            ("codebook.mse_weight", self.codebook.mse_weight),
            ("codebook.commitment", self.codebook.commitment),
            ("codebook.weight_decay", self.code_weight_decay),
            ("codebook.lr_factor", self.code_lr_factor),
            ("training.weight_decay", self.weight_decay),
        ];
        for (key, found) in factors {
            if found < 0.0 || !found.is_finite() {
                return Err(r.wrong(key, found, "0 or more, and a finite f32").into());
            }
        }
        if self.lr <= 0.0 || !self.lr.is_finite() {
            let expected = "more than 0, and a finite f32";
            return Err(r.wrong("training.lr", self.lr, expected).into());
        }
        let mut layers = self.layers.clone();
        layers.sort_unstable();
        if let Some(pair) = layers.windows(2).find(|pair| pair[0] == pair[1]) {
            let expected = "each layer at most once";
            return Err(r.wrong("codebook.layers", pair[0], expected).into());
        }
        self.check_memory(r)?;
        match (&self.model, &self.data) {
            (
                ModelOptions::Random {
                    d_model, n_heads, ..
                },
                _,
            ) if !d_model.is_multiple_of(2 * n_heads) => {
                let expected = format!("heads of one even width in model.d_model = {d_model}");
                Err(r.wrong("model.n_heads", n_heads, &expected).into())
            }
            (ModelOptions::Random { .. }, DataOptions::Text { .. }) => {
                let expected = "the name of a trained model, since data.kind is \"text\"";
                Err(r.wrong("model.source", "\"random\"", expected).into())
            }
            (ModelOptions::Trained(name), DataOptions::TokFsm(_)) => {
                let expected = "\"random\", since data.kind is \"tokfsm\"";
                Err(r
                    .wrong("model.source", format!("\"{name}\""), expected)
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses batches and a random model that do not fit into memory. What codebooks need is known
    /// when the model is.
    fn check_memory(&self, r: &Reader) -> Result<(), CodebookError> {
        let (length, d_vocab) = match &self.data {
            DataOptions::TokFsm(o) => (o.sequence_states * o.digits, o.base + 1),
            DataOptions::Text { context, .. } => (*context, 0),
        };
        let mut sizes = vec![
            // Inputs and targets.
            (
                "training.batch",
                self.batch,
                product(&[self.batch, length, 2]),
            ),
            (
                "evaluation.sequences",
                self.evaluation_sequences,
                product(&[self.evaluation_sequences, length, 2]),
            ),
        ];
        if let ModelOptions::Random {
            d_model,
            n_layers,
            d_mlp,
            ..
        } = &self.model
        {
            let weights = |of: &[usize]| product(of).saturating_mul(TRAINED);
            sizes.extend([
                ("model.d_model", *d_model, weights(&[4, *d_model, *d_model])),
                ("model.d_mlp", *d_mlp, weights(&[3, *d_model, *d_mlp])),
                (
                    "model.n_layers",
                    *n_layers,
                    weights(&[
                        *n_layers,
                        *d_model,
                        product(&[4, *d_model]).saturating_add(product(&[3, *d_mlp])),
                    ]),
                ),
                (
                    "data.base",
                    d_vocab.saturating_sub(1),
                    weights(&[d_vocab, *d_model]),
                ),
            ]);
        }
        for (key, found, numbers) in sizes {
            if let Some(expected) = too_large(numbers) {
                return Err(r.wrong(key, found, &expected).into());
            }
        }
        Ok(())
    }

    /// Every key with its value as TOML writes it.
    fn values(&self) -> Vec<(&'static str, String)> {
        fn toml<T: FromToml>(value: T) -> String {
            value.to_toml().to_string()
        }
        // The shortest decimal number that is read back as the same f32.
        let short = |value: f32| toml(value.to_string().parse::<f64>().unwrap_or(f64::from(value)));
        let mut out = vec![("seed", toml(self.seed))];
        match &self.data {
            DataOptions::TokFsm(o) => out.extend([
                ("data.kind", toml("tokfsm".to_owned())),
                ("data.states", toml(o.states)),
                ("data.edges", toml(o.edges)),
                ("data.digits", toml(o.digits)),
                ("data.base", toml(o.base)),
                ("data.sequence_states", toml(o.sequence_states)),
            ]),
            DataOptions::Text {
                corpus,
                heldout,
                context,
            } => out.extend([
                ("data.kind", toml("text".to_owned())),
                ("data.corpus", toml(corpus.clone())),
                ("data.heldout", toml(heldout.clone())),
                ("data.context", toml(*context)),
            ]),
        }
        match &self.model {
            ModelOptions::Trained(name) => out.push(("model.source", toml(name.clone()))),
            ModelOptions::Random {
                d_model,
                n_layers,
                n_heads,
                d_mlp,
            } => out.extend([
                ("model.source", toml("random".to_owned())),
                ("model.d_model", toml(*d_model)),
                ("model.n_layers", toml(*n_layers)),
                ("model.n_heads", toml(*n_heads)),
                ("model.d_mlp", toml(*d_mlp)),
            ]),
        }
        let places: Vec<String> = self.places.iter().map(|p| p.name().to_owned()).collect();
        let c = &self.codebook;
        out.extend([
            ("codebook.places", toml(places)),
            ("codebook.layers", toml(self.layers.clone())),
            ("codebook.n_codes", toml(c.n_codes)),
            ("codebook.k", toml(c.k)),
            ("codebook.assignment", toml(c.assignment)),
            ("codebook.combination", toml(c.combination)),
            ("codebook.layer_norm", toml(c.layer_norm)),
            ("codebook.loss", toml(c.loss)),
            ("codebook.mse_weight", short(c.mse_weight)),
            ("codebook.commitment", short(c.commitment)),
            ("codebook.init", toml(self.init)),
            ("codebook.replace_every", toml(self.replace_every)),
            ("codebook.weight_decay", short(self.code_weight_decay)),
            ("codebook.lr_factor", short(self.code_lr_factor)),
            ("training.steps", toml(self.steps)),
            ("training.batch", toml(self.batch)),
            ("training.lr", short(self.lr)),
            ("training.warmup_steps", toml(self.warmup_steps)),
            ("training.schedule", toml(self.schedule)),
            ("training.weight_decay", short(self.weight_decay)),
            ("training.log_every", toml(self.log_every)),
            ("training.checkpoint_every", toml(self.checkpoint_every)),
            ("evaluation.sequences", toml(self.evaluation_sequences)),
            ("evaluation.every", toml(self.evaluation_every)),
        ]);
        out
    }

    /// The config as a file, every default filled in.
    pub fn to_toml(&self) -> String {
        let lines = self.values().into_iter();
        lines
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect()
    }

    /// Refuses to go on with the run of this config by another config, which trains otherwise. With
    /// `extend`, the number of steps may differ. `path` is the file of this config.
    ///
    /// # Errors
    /// The first setting that differs, with its value here and there.
    pub fn check_same_training(
        &self,
        other: &Self,
        path: &Path,
        extend: bool,
    ) -> Result<(), CodebookError> {
        let is_length = |key: &str| key == "training.steps";
        let mut differences = self.differences(other);
        let found = differences.find(|(key, ..)| !(extend && is_length(key)));
        let Some((key, saved, here)) = found else {
            return Ok(());
        };
        let expected = match is_length(key) {
            true => {
                "the same number (--extend goes on to another one, --overwrite replaces the run)"
            }
            false => "the run's own config to go on with it (--overwrite replaces the run)",
        };
        Err(CodebookError::value(
            format!("{}: {key}", path.display()),
            format!("{saved} in the run, {here} in the config"),
            expected,
        ))
    }

    /// The settings that change the training and differ: key, value here and value there.
    fn differences(
        &self,
        other: &Self,
    ) -> impl Iterator<Item = (&'static str, String, String)> + use<> {
        let free = [
            "training.log_every",
            "training.checkpoint_every",
            "evaluation.sequences",
            "evaluation.every",
        ];
        let (here, there) = (self.values(), other.values());
        here.into_iter()
            .filter(move |(key, _)| !free.contains(key))
            .filter_map(move |(key, value)| {
                let found = there.iter().find(|(other, _)| *other == key);
                let found = found.map_or("nothing", |(_, value)| value.as_str());
                (found != value).then(|| (key, value, found.to_owned()))
            })
    }

    /// The learning rate of a step, counted from 1.
    pub fn learning_rate(&self, step: u64) -> f32 {
        match self.schedule {
            Schedule::Constant if step > self.warmup_steps => self.lr,
            Schedule::Constant => self.lr * step as f32 / self.warmup_steps as f32,
            Schedule::Cosine => warmup_then_cosine(self.lr, step, self.warmup_steps, self.steps),
        }
    }
}
