//! The tables of a recipe, with what each key means.

use lapidary_activations::{Exclusion, TEXT_FIELD};
use serde::{Deserialize, Serialize};

use crate::coders::{JumpReluConfig, MatryoshkaConfig};
use crate::penalty::Penalty;
use lapidary_kernels::Pursuit;

/// The whole recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Model: a Hugging Face folder, a hub name, or "embedded" (the small model inside the program).
    pub model: String,
    /// Where the activations are taken, in TransformerLens spelling.
    pub hook_point: String,
    /// The hook points that a crosscoder reads and reconstructs, or a cross-layer transcoder reads, `hook_point` the first of them; otherwise
    /// empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hook_points: Vec<String>,
    /// The hook points at which a cross-layer transcoder writes, one for each of `hook_points`, which it reads; otherwise empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hook_points_out: Vec<String>,
    /// Where those are taken that a transcoder reconstructs; absent: where it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_point_out: Option<String>,
    /// The second model of a crosscoder of two, with the same tokens; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_model: Option<String>,
    /// Where the second model's activations are taken; absent: at `hook_point`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_hook_point: Option<String>,
    /// Seed of everything random: initial weights and, unless it has its own, the order of the activations.
    pub seed: u64,
    /// The text.
    pub corpus: CorpusConfig,
    /// From text to batches of activations.
    pub activations: ActivationsConfig,
    /// The sparse coder.
    pub coder: CoderConfig,
    /// The optimization.
    pub training: TrainingConfig,
    /// The figures of merit after training.
    pub evaluation: EvaluationConfig,
    /// The feature tables after training.
    pub features: FeaturesConfig,
}

/// `[corpus]`: the text to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusConfig {
    /// A text, JSON Lines or Parquet file, or "embedded" (the text inside the program).
    pub path: String,
    /// The field of JSON lines, or the column of Parquet, that holds the text.
    #[serde(default = "text")]
    pub text_field: String,
    /// Tokens a block: how much context the model sees.
    pub context: usize,
    /// Whether each sequence starts with the tokenizer's beginning-of-sequence token.
    pub prepend_bos: bool,
    /// Whether a document's tokens see those of the documents before it in a block.
    #[serde(default = "yes")]
    pub attend_across_documents: bool,
}

// What recipes in dictionaries meant that were written before these keys existed.
fn text() -> String {
    TEXT_FIELD.to_owned()
}

fn adam() -> String {
    "adam".to_owned()
}

fn aux_k() -> String {
    "aux_k".to_owned()
}

fn local() -> String {
    "local".to_owned()
}

fn l1() -> String {
    "l1".to_owned()
}

pub(super) const fn tanh_scale() -> f64 {
    4.0
}

const fn yes() -> bool {
    true
}

/// `[activations]`: from text to shuffled, normalized batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActivationsConfig {
    /// Rows of the shuffle buffer: batches are drawn at random from this many activations.
    pub buffer_tokens: usize,
    /// Blocks that go through the model at once.
    pub harvest_blocks: usize,
    /// "unit_norm" (one scale, so that the mean squared norm is 1), "mean_centred" (mean removed, then the scale) or "none".
    pub normalization: String,
    /// A store of activations to read instead of running the model on the text; model, hook point and text default to its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Seed of the order of the activations; absent: `seed`. Coders of one run share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Which tokens' activations are left out of training.
    #[serde(default)]
    pub exclude: Exclusion,
}

/// `[coder]`: the sparse coder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoderConfig {
    /// "topk" (the k largest a token), "batchtopk" (k a token on average over the batch), "matryoshka" (the same, with prefixes that
    /// reconstruct by themselves), "standard" (ReLU with an L1 penalty), "jumprelu" (a threshold a latent), "gated",
    /// "matching_pursuit" (decoder rows taken away one after the other) or "proximal" (a penalty's proximal operator).
    pub architecture: String,
    /// Number of latents, of a cross-layer transcoder of each layer; absent: `expansion_factor` times the activation's width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub d_sae: Option<usize>,
    /// Latents for each dimension of the activation; used if `d_sae` is absent. Default 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expansion_factor: Option<f64>,
    /// Active latents a token ("topk": exactly, "batchtopk" and "matryoshka": on average, "matching_pursuit":
    /// steps; others ignore it).
    pub k: usize,
    /// Active latents a token at the start, from which they fall to `k`; absent: `k` from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_start: Option<usize>,
    /// "topk": whether what 4k latents leave unexplained counts too, an eighth.
    #[serde(default)]
    pub multi_topk: bool,
    /// Whether a linear map of what a transcoder reads is part of what it reconstructs.
    #[serde(default)]
    pub skip_connection: bool,
    /// Whether `b_dec` is subtracted before encoding; never in a transcoder.
    pub apply_b_dec_to_input: bool,
    /// Initial `b_dec`: "geometric_median" or "mean" of the first batch, or "zeros".
    pub b_dec_init: String,
    /// Initial norm of the rows of `W_dec`; absent: 1, with `decoder_norm = "free"` 0.1, and 0 in a transcoder whose rows are free. An
    /// autoencoder's `W_enc` starts as its copy, a transcoder's has directions of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_init_norm: Option<f64>,
    /// What only "jumprelu" has; there if the coder is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jumprelu: Option<JumpReluConfig>,
    /// What only "matryoshka" has; there if the coder is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matryoshka: Option<MatryoshkaConfig>,
    /// What only "matching_pursuit" has; there if the coder is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching_pursuit: Option<Pursuit>,
    /// What only "proximal" has; there if the coder is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proximal: Option<Penalty>,
}

/// `[training]`: the optimization.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingConfig {
    /// Activations to train on; the number of steps is this over `batch_tokens`.
    pub tokens: u64,
    /// Activations a step.
    pub batch_tokens: usize,
    /// "adam", "signum" (the sign of the mean gradient) or "muon" (the mean gradient of a matrix made orthogonal).
    #[serde(default = "adam")]
    pub optimizer: String,
    /// Peak learning rate; absent: 2e-4 / sqrt(d_sae / 2^14), or 3e-4 for "standard"; "signum" 5e-3 / sqrt(d_sae / 2^14), "muon" 2e-3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Steps over which the rate rises from 0; absent: a twentieth of all, at most 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_warmup_steps: Option<u64>,
    /// Last part of the run over which the rate falls to 0.
    pub lr_decay_fraction: f64,
    /// Decay of the mean gradient.
    pub adam_beta1: f64,
    /// Adam's decay of the mean squared gradient.
    pub adam_beta2: f64,
    /// Adam's epsilon (small, because the gradients of rare latents are).
    pub adam_eps: f64,
    /// What is minimized besides sparsity: "local" (what the coder leaves of the activations), or what the model says of the text with the
    /// reconstruction in place: "kl" (divergence from what it says by itself) or "ce" (cross-entropy of the next tokens), mean over tokens.
    #[serde(default = "local")]
    pub loss: String,
    /// "kl", "ce": weight of the local loss beside it.
    #[serde(default)]
    pub local_coefficient: f64,
    /// "standard": what makes it sparse, "l1" (activation times decoder norm, summed) or "tanh" (of `tanh_scale` times that, which asks no
    /// less of a latent that is large).
    #[serde(default = "l1")]
    pub sparsity_penalty: String,
    /// "tanh": factor inside it.
    #[serde(default = "tanh_scale")]
    pub tanh_scale: f64,
    /// Weight of the penalty ("standard", "gated"), against the squared error summed over dimensions. SAELens scales
    /// activations to norm sqrt(d): its coefficient over sqrt(d) is this one.
    pub l1_coefficient: f64,
    /// Steps over which the weight of the sparsity penalty rises from 0; absent: a twentieth of all.
    #[serde(alias = "l1_warmup_steps", skip_serializing_if = "Option::is_none")]
    pub sparsity_warmup_steps: Option<u64>,
    /// Steps over which the active latents fall from `coder.k_start` to `coder.k`; absent: half of all, if there is a start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_anneal_steps: Option<u64>,
    /// What brings dead latents back: "aux_k" (they reconstruct what the living leave), "ghost_gradients" (the same with exponentials, scaled),
    /// "resampling" (they get directions of inputs that are reconstructed badly) or "none".
    #[serde(default = "aux_k")]
    pub revival: String,
    /// "resampling": steps between two; absent: a fifth of all. None in the last fifth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resample_every_steps: Option<u64>,
    /// Dead latents that reconstruct the residual of a token; absent: half the activation's width; 0: no auxiliary loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux_k: Option<usize>,
    /// Weight of the auxiliary loss.
    pub aux_k_coefficient: f64,
    /// A latent that has not fired for this many tokens is dead; absent: a tenth of `tokens`, at most 10 million.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_after_tokens: Option<u64>,
    /// Steps between two counts of the dead: larger means fewer waits for the device.
    pub dead_check_every_steps: u64,
    /// "unit" (rows of `W_dec` keep norm 1) or "free" (they have any: coders whose penalty weighs each latent by its norm, matching
    /// pursuit, and transcoders).
    pub decoder_norm: String,
    /// Largest norm of the whole gradient; 0: no limit.
    pub clip_grad_norm: f64,
    /// "batchtopk": decay of the moving average of the inference threshold.
    pub threshold_decay: f64,
    /// Steps between checkpoints; 0: every ten minutes. One is written at the end as well.
    pub checkpoint_every_steps: u64,
    /// Steps between lines of metrics.jsonl.
    pub log_every_steps: u64,
}

/// `[evaluation]`: the figures of merit after training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationConfig {
    /// Text to evaluate on; default "embedded:heldout" with the embedded corpus, otherwise the training corpus.
    pub corpus: String,
    /// Tokens to evaluate on; 0: no evaluation.
    pub tokens: u64,
}

/// `[features]`: the feature tables after training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeaturesConfig {
    /// Tokens whose activations go into the statistics; 0: no tables.
    pub tokens: u64,
    /// Contexts kept for each feature.
    pub examples_per_feature: usize,
}
