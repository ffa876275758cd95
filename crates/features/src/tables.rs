//! The tables that notebooks read: `features.parquet`, one row per latent, `examples.parquet`, one
//! row per context, `histograms.parquet`, one row per latent and bin, `coactivations.parquet`, one
//! row per pair of latents, and `runs.parquet`, one row per coder of a run of several.
//!
//! All are plain Parquet with Zstandard pages; lists hold no nulls. Rows are sorted by latent in
//! small row groups, so that a reader of one latent skips nearly all of a file. The file's metadata
//! say what made it ([`TableSource`]). The reference of the columns is docs/reference/tables.md.

mod codes;
mod columns;
mod documents;
mod labels;
mod latent_rows;
mod measures;
mod neurons;
mod pairs;
mod read;
mod runs;
mod version_1;
mod write;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use codes::{CodesWriter, write_codes};
pub use documents::{DocumentRow, document_rows, write_documents};
pub use labels::{LABEL_COLUMNS, LabelRow, WRITTEN, best_labels, read_labels, write_labels};
pub use latent_rows::{
    PartnerRow, for_each_context, read_examples_of, read_histogram_of, read_partner_rows,
    read_partners_of, read_source,
};
pub use measures::{read_histogram_rows, read_histograms, write_coactivations, write_histograms};
pub use neurons::{NeuronRow, write_neurons};
pub use pairs::{PairRow, RankedRow, write_pairs, write_ranking};
pub use read::{TableDescription, describe_table, read_examples, read_features, read_runs};
pub use runs::{RunRow, write_runs};
pub use write::{TableSource, write_examples, write_features, write_latents};

use crate::FeaturesError;
use crate::statistics::{Band, LatentStatistics, StatisticsSummary, TokenCount};

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
    /// Excess kurtosis, over all tokens, of what the decoder row does to the logits; none where the
    /// row is not in the space of the residual stream.
    pub logit_kurtosis: Vec<Option<f32>>, // [d_sae]
    /// The latents whose decoder rows have the highest cosines with this one's, as (latent,
    /// cosine), highest first.
    pub nearest: Vec<Vec<(u32, f32)>>, // [d_sae][any]
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
///
/// The tokens of a latent are sorted by activation mass, `count` times `mean_activation`.
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
    /// Share of the latent's firings that are on this token, over the token's share of the text;
    /// absent in tables of earlier versions.
    pub lift: Option<f32>,
}

/// A token of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its text.
    pub text: Arc<str>,
    /// Its id.
    pub id: u32,
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
/// The quantiles are `quantile_25`, `_50`, `_75`, `_90`, `_99`. Activation figures are over the
/// tokens on which the latent fired, and 0 for a latent that never did. A field that is absent in
/// tables of earlier versions is an option.
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
    /// Quantiles .25 .5 .75 .9 .99 of the activation (f32 each): exact up to 1024 firings, else
    /// within 1/64.
    pub quantiles: [f32; 5],
    /// Mean position in the document of the tokens on which it fired (f64).
    pub mean_position: Option<f64>,
    /// Norm of the decoder row (f32).
    pub decoder_norm: f32,
    /// Norm of the decoder row at each hook point that it writes at, as the model makes activations
    /// there, over the sum of them: of a crosscoder of two models how much the latent belongs to
    /// each (list of f32; 1 alone where there is one).
    pub relative_decoder_norms: Vec<f32>,
    /// Cosine between encoder and decoder row (f32, null where it has no meaning).
    pub encoder_decoder_cosine: Option<f32>,
    /// Excess kurtosis, over all tokens, of what the decoder row does to the logits: large if it
    /// moves a few tokens far more than the rest (f32, null where the row is not in the space of
    /// the residual stream).
    pub logit_kurtosis: Option<f32>,
    /// The latents whose decoder rows have the highest cosines with this one's, as (latent,
    /// cosine), highest first (list of structs); absent in tables of earlier versions, and
    /// empty for codes.
    pub nearest: Vec<(u32, f32)>,
    /// Tokens whose logits it raises most, highest first (list of structs).
    pub promoted: Vec<LogitToken>,
    /// Tokens whose logits it lowers most, lowest first (list of structs).
    pub suppressed: Vec<LogitToken>,
    /// Tokens with the largest sums of its activations (list of structs).
    pub top_tokens: Vec<FiringToken>,
    /// The token on which most of its strongest contexts peak (`peak_token`, string, and
    /// `peak_token_id`, u32); null if it never fired.
    pub peak_token: Option<Token>,
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
        ("decoder.logit_kurtosis", decoder.logit_kurtosis.len()),
        ("decoder.nearest", decoder.nearest.len()),
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
            mean_position: Some(latent.mean_position),
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
            logit_kurtosis: decoder.logit_kurtosis[id],
            nearest: decoder.nearest[id].clone(),
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
                    lift: Some(lift(summary, latent, top)),
                })
                .collect(),
            peak_token: peak_token(latent).map(|id| Token {
                text: texts.of(id),
                id,
            }),
            dead: latent.firing_count == 0,
            code: None,
        });
    Ok(rows.collect())
}

/// How much more often a latent fires on a token than it would by the token's share of the text.
fn lift(summary: &StatisticsSummary, latent: &LatentStatistics, top: &TokenCount) -> f32 {
    let counted = summary.token_counts.get(&top.token).copied().unwrap_or(1);
    let share = counted as f64 / summary.tokens.max(1) as f64;
    (top.count as f64 / latent.firing_count.max(1) as f64 / share) as f32
}

/// The most frequent token at the peaks of the strongest contexts; ties: that of the stronger one.
fn peak_token(latent: &LatentStatistics) -> Option<u32> {
    let top = latent.contexts.iter().filter(|c| c.band == Band::Top);
    let peaks: Vec<u32> = top.map(|c| c.tokens[c.peak_index]).collect();
    let count = |token: u32| peaks.iter().filter(|peak| **peak == token).count();
    // `max_by_key` takes the last of equals.
    peaks
        .iter()
        .rev()
        .copied()
        .max_by_key(|token| count(*token))
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
