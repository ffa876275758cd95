//! `features.parquet`, one row per latent, `examples.parquet`, one row per context, and
//! `runs.parquet`, one row per coder of a run of several: what notebooks read.
//!
//! All are plain Parquet with Zstandard pages; lists hold no nulls. The reference of the columns of
//! the first two is the documentation of [`FeatureRow`] and [`ExampleRow`], whose fields are the
//! columns.

mod read;
mod runs;
mod write;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use read::{TableDescription, describe_table, read_examples, read_features, read_runs};
pub use runs::{RunRow, write_runs};
pub use write::{write_examples, write_features, write_latents};

use crate::FeaturesError;
use crate::statistics::{Band, StatisticsSummary};

/// What the weights alone say about each latent; computed where the model is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DecoderSummary {
    /// Norm of each decoder row.
    pub decoder_norm: Vec<f32>, // [d_sae]
    /// Its norm at each hook point that it writes at, over the sum of them; empty where that is not
    /// known.
    pub relative_decoder_norms: Vec<Vec<f32>>, // [d_sae][hook points]
    /// Cosine between each latent's encoder and decoder row, where both live in the same space.
    pub encoder_decoder_cosine: Option<Vec<f32>>, // [d_sae]
    /// The tokens whose logits the decoder row raises most, as (token, logit), highest first.
    pub promoted: Vec<Vec<(u32, f32)>>, // [d_sae][any]
    /// The tokens whose logits it lowers most, lowest first.
    pub suppressed: Vec<Vec<(u32, f32)>>, // [d_sae][any]
}

/// A token whose logit a latent's decoder row raises or lowers.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitToken {
    /// Its text.
    pub text: Arc<str>,
    /// Its id.
    pub id: u32,
    /// What one unit of the latent's activation adds to its logit, the final normalization left
    /// out.
    pub logit: f32,
}

/// A token on which a latent fires.
#[derive(Debug, Clone, PartialEq)]
pub struct FiringToken {
    /// Its text.
    pub text: Arc<str>,
    /// Its id.
    pub id: u32,
    /// How often the latent fired on it.
    pub count: u64,
    /// The mean activation there.
    pub mean_activation: f32,
}

/// Which code of which codebook a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodePlace {
    /// The layer of the codebook (`layer`, u32).
    pub layer: u32,
    /// The head; 0 where the codebook is not divided into heads (`head`, u32).
    pub head: u32,
    /// The code (`code`, u32).
    pub code: u32,
}

/// One row of `features.parquet`: a latent, or a code of a codebook.
///
/// The token fields are stored as lists: `promoted_tokens`, `promoted_token_ids`,
/// `promoted_logits`; `suppressed_tokens`, `suppressed_token_ids`, `suppressed_logits`;
/// `top_tokens`, `top_token_ids`, `top_token_counts`, `top_token_mean_activations`. The quantiles
/// are `quantile_25`, `_50`, `_75`, `_90`, `_99`. Activation figures are over the tokens on which
/// the latent fired, and 0 for a latent that never did.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureRow {
    /// Number of the latent in its dictionary (u32).
    pub feature_id: u32,
    /// Where the dictionary reads the model, in a cross-layer transcoder where the latent does
    /// (string).
    pub hook_point: Arc<str>,
    /// Share of the counted tokens on which it fired (f64).
    pub firing_density: f64,
    /// Number of them (u64).
    pub firing_count: u64,
    /// Mean activation (f32).
    pub mean_activation: f32,
    /// Highest activation (f32).
    pub max_activation: f32,
    /// Population standard deviation of the activation (f32).
    pub std_activation: f32,
    /// Quantiles .25 .5 .75 .9 .99 of the activation (f32 each): exact up to 1024 firings, else of
    /// a sample of 1024.
    pub quantiles: [f32; 5],
    /// Norm of the decoder row (f32).
    pub decoder_norm: f32,
    /// Norm of the decoder row at each hook point that it writes at, as the model makes activations
    /// there, over the sum of them: of a crosscoder of two models how much the latent belongs to
    /// each (list of f32; 1 alone where there is one).
    pub relative_decoder_norms: Vec<f32>,
    /// Cosine between encoder and decoder row (f32, null where it has no meaning).
    pub encoder_decoder_cosine: Option<f32>,
    /// Tokens whose logits it raises most, highest first (lists).
    pub promoted: Vec<LogitToken>,
    /// Tokens whose logits it lowers most, lowest first (lists).
    pub suppressed: Vec<LogitToken>,
    /// Tokens on which it fired most often (lists).
    pub top_tokens: Vec<FiringToken>,
    /// True if it never fired (bool).
    pub dead: bool,
    /// Of a code: which it is. The columns `layer`, `head` and `code` are there if every row has
    /// them.
    pub code: Option<CodePlace>,
}

/// One row of `examples.parquet`: a context in which a latent fired.
#[derive(Debug, Clone, PartialEq)]
pub struct ExampleRow {
    /// The latent (u32).
    pub feature_id: u32,
    /// Place within its band, strongest first, from 0 (u32).
    pub rank: u32,
    /// Which part of the activation range it shows (string: `top`, `q75`, `q50`, `q25`).
    pub band: Band,
    /// The activation at the peak (f32).
    pub max_activation: f32,
    /// Text of each token (list of strings).
    pub tokens: Vec<Arc<str>>, // [window]
    /// Id of each token (list of u32).
    pub token_ids: Vec<u32>, // [window]
    /// The latent's activation on each token (list of f32).
    pub activations: Vec<f32>, // [window]
    /// Where in the window the peak is (u32).
    pub peak_index: u32,
    /// Document of the peak token (u32).
    pub document: u32,
    /// Position of the peak token in that document (u32).
    pub position: u32,
}

/// Joins statistics and decoder into rows; `token_text` gives the text of one token. The
/// `hook_points` are those of as many equal parts of the latents, mostly of all.
///
/// # Errors
/// If `decoder` does not describe as many latents as `summary`.
pub fn feature_rows(
    summary: &StatisticsSummary,
    decoder: &DecoderSummary,
    hook_points: &[String],
    token_text: &dyn Fn(u32) -> String,
) -> Result<Vec<FeatureRow>, FeaturesError> {
    let latents = summary.latents.len();
    for (field, found) in [
        ("decoder.decoder_norm", decoder.decoder_norm.len()),
        (
            "decoder.encoder_decoder_cosine",
            decoder
                .encoder_decoder_cosine
                .as_ref()
                .map_or(latents, Vec::len),
        ),
        ("decoder.promoted", decoder.promoted.len()),
        ("decoder.suppressed", decoder.suppressed.len()),
    ] {
        if found != latents {
            let expected = format!("{latents}, one per latent of the statistics");
            return Err(FeaturesError::Input {
                field,
                found: format!("{found} entries"),
                expected,
            });
        }
    }
    if hook_points.is_empty() || !latents.is_multiple_of(hook_points.len()) {
        return Err(FeaturesError::Input {
            field: "hook_points",
            found: format!("{} for {latents} latents", hook_points.len()),
            expected: "one, or one for each of as many equal parts".into(),
        });
    }
    let hook_points: Vec<Arc<str>> = hook_points.iter().map(|h| h.as_str().into()).collect();
    let of_each = (latents / hook_points.len()).max(1);
    let mut texts = Texts::new(token_text);
    let rows = summary
        .latents
        .iter()
        .enumerate()
        .map(|(id, latent)| FeatureRow {
            feature_id: id as u32,
            hook_point: Arc::clone(&hook_points[id / of_each]),
            firing_density: latent.firing_density,
            firing_count: latent.firing_count,
            mean_activation: latent.mean_activation,
            max_activation: latent.max_activation,
            std_activation: latent.std_activation,
            quantiles: latent.quantiles,
            decoder_norm: decoder.decoder_norm[id],
            relative_decoder_norms: decoder
                .relative_decoder_norms
                .get(id)
                .cloned()
                .unwrap_or_default(),
            encoder_decoder_cosine: decoder
                .encoder_decoder_cosine
                .as_ref()
                .map(|cosine| cosine[id]),
            promoted: texts.logit_tokens(&decoder.promoted[id]),
            suppressed: texts.logit_tokens(&decoder.suppressed[id]),
            top_tokens: latent
                .top_tokens
                .iter()
                .map(|top| FiringToken {
                    text: texts.of(top.token),
                    id: top.token,
                    count: top.count,
                    mean_activation: top.mean_activation,
                })
                .collect(),
            dead: latent.firing_count == 0,
            code: None,
        });
    Ok(rows.collect())
}

/// The contexts of all latents as rows, by latent, band and rank; `texts` gives the texts of the
/// tokens of a context, which depend on each other where a character has several tokens.
pub fn example_rows(
    summary: &StatisticsSummary,
    texts: &dyn Fn(&[u32]) -> Vec<String>,
) -> Vec<ExampleRow> {
    let mut known: HashSet<Arc<str>> = HashSet::new();
    let mut shared = |text: String| match known.get(text.as_str()) {
        Some(text) => Arc::clone(text),
        None => {
            let text: Arc<str> = text.into();
            known.insert(Arc::clone(&text));
            text
        }
    };
    let mut rows = Vec::with_capacity(
        summary
            .latents
            .iter()
            .map(|latent| latent.contexts.len())
            .sum(),
    );
    for (id, latent) in summary.latents.iter().enumerate() {
        for of_band in latent.contexts.chunk_by(|a, b| a.band == b.band) {
            rows.extend(of_band.iter().enumerate().map(|(rank, context)| {
                ExampleRow {
                    feature_id: id as u32,
                    rank: rank as u32,
                    band: context.band,
                    max_activation: context.peak,
                    tokens: texts(&context.tokens)
                        .into_iter()
                        .map(&mut shared)
                        .collect(),
                    token_ids: context.tokens.clone(),
                    activations: context.activations.clone(),
                    peak_index: context.peak_index as u32,
                    document: context.document,
                    position: context.position,
                }
            }));
        }
    }
    rows
}

/// Each token's text, asked for and stored once.
struct Texts<'a> {
    token_text: &'a dyn Fn(u32) -> String,
    known: HashMap<u32, Arc<str>>,
}

impl<'a> Texts<'a> {
    fn new(token_text: &'a dyn Fn(u32) -> String) -> Self {
        Texts {
            token_text,
            known: HashMap::new(),
        }
    }

    fn of(&mut self, token: u32) -> Arc<str> {
        Arc::clone(
            self.known
                .entry(token)
                .or_insert_with(|| (self.token_text)(token).into()),
        )
    }

    fn logit_tokens(&mut self, tokens: &[(u32, f32)]) -> Vec<LogitToken> {
        tokens
            .iter()
            .map(|&(id, logit)| LogitToken {
                text: self.of(id),
                id,
                logit,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
