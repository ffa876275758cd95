//! The tables of a recipe that every architecture has.

use lapidary_activations::{NormalizationKind, TEXT_FIELD};
use lapidary_coder::ArchitectureKind;

use super::names::{DeadLatents, DecoderBiasStart, DecoderNorm, Loss, Optimizer, SparsityPenalty};
use super::table::table;

table! {
    /// `[corpus]`: the text to train on.
    CorpusConfig, "corpus";
    /// A text, JSON or Parquet file; a folder of such files; `hf:OWNER/NAME`, a dataset of the hub;
    /// `embedded`; or `embedded:heldout`. A folder and a dataset can be followed by `:SPLIT`
    /// ([which files are read](../how-to/own-model-and-text.md#the-text)).
    path: String = fixed("embedded".to_owned());
    /// The field of JSON, or the column of Parquet, that holds the text.
    text_field: String = fixed(TEXT_FIELD.to_owned());
    /// Tokens per block, including BOS: the context that the model sees. At most the model's own
    /// context.
    context: usize = fixed(128), "at least 1" => |v| *v > 0;
    /// Whether each sequence starts with the tokenizer's beginning-of-sequence token.
    prepend_bos: bool = fixed(true);
    /// Whether a block is one sequence. Otherwise each document in a block is a sequence of its
    /// own, with positions from 0, and sees nothing of the documents before it.
    attend_across_documents: bool = fixed(false);
}

table! {
    /// `[activations]`: from text to shuffled, normalized batches.
    ActivationsConfig -> ResolvedActivations, "activations";
    /// Rows of the shuffle buffer, from which batches are drawn at random; at least one batch. The
    /// buffer is refilled when it is less than half full. With a loss through the model: the number
    /// of tokens, in whole batches, within which the order of blocks is random. With a store: the
    /// window of the [shuffle](../methods/activations.md#shuffling-a-store).
    buffer_tokens: usize = fixed(65_536);
    /// Blocks that go through the model at once to refill the buffer. With a loss through the model
    /// it matters only for the first refill, since each batch is one pass; with a store it has no
    /// effect.
    harvest_blocks: usize = fixed(16), "at least 1" => |v| *v > 0;
    /// `unit_norm`: one scale, such that the mean squared norm is 1; `mean_centred`: the mean is
    /// removed first; `none`. It is estimated from the first full buffer or window (with a loss
    /// through the model from 16,384 tokens of it), and folded into the saved weights.
    normalization: NormalizationKind = fixed(NormalizationKind::UnitNorm);
    /// A [store of activations](files.md#a-store-of-activations), or [a cache of
    /// SAELens](../how-to/store.md#a-cache-that-saelens-wrote), to read instead of running the
    /// model on the text. `model`, `[corpus]`, `exclude` and, if the store has only one,
    /// `hook_point` then default to the store's. If the recipe sets one of them, it must agree with
    /// the store.
    store: String = optional("absent");
    /// Seed for the order of the activations. Coders [trained in one
    /// run](../how-to/several-coders.md) share it.
    seed: u64 = later(|w| w.order_seed, "the recipe's `seed`");
}

table! {
    /// `[activations.exclude]`: which tokens' activations are left out of training.
    ExcludeConfig, "activations.exclude";
    /// Whether activations at BOS and EOS are left out.
    special_tokens: bool = fixed(true);
    /// How many tokens at the start of each sequence are left out, including BOS.
    first_positions: usize = fixed(0);
    /// Activations are left out if their norm is more than this many times the median norm of the
    /// first batch, as at attention sinks; with several hook points, if it is so at any of them. 0:
    /// none is left out for its norm.
    norm_multiple: f64 = fixed(10.0), "0 or more" => |v| *v == 0.0 || (*v as f32 > 0.0 && (*v as f32).is_finite());
}

table! {
    /// `[coder]`: the sparse coder.
    CoderConfig -> ResolvedCoder, "coder";
    /// How latents are chosen.
    architecture: ArchitectureKind = fixed(ArchitectureKind::TopK);
    /// Number of latents; for a cross-layer transcoder, per layer. With several hook points the
    /// width at the first counts.
    d_sae: usize = later(|w| w.d_sae, "`expansion_factor` × width"), "1 to 2147483647" => |v| *v > 0 && i32::try_from(*v).is_ok();
    /// Latents for each dimension of the activation; not together with `d_sae`.
    expansion_factor: f64 = optional("16"), "more than 0" => |v| *v > 0.0;
    /// Active latents per token; for a cross-layer transcoder, in each layer; for
    /// `matching_pursuit`, steps. `standard`, `jumprelu`, `gated` and `proximal` ignore it.
    k: usize = fixed(32), "at least 1" => |v| *v > 0;
    /// Active latents per token to which [a controller](../methods/target-l0.md) brings the
    /// training batches; the weight of the penalty is then only where it starts. For a cross-layer
    /// transcoder: in each layer. For `standard`, `gated`, `proximal`, and `jumprelu` with `step`
    /// or `tanh`.
    target_l0: f64 = optional("absent"), "more than 0" => |v| *v > 0.0 && v.is_finite();
    /// Active latents per token at the start, `k` or more, from which they fall linearly to `k`
    /// over `training.k_anneal_steps`; for `topk`, `batchtopk` and `matryoshka`.
    k_start: usize = optional("absent");
    /// For `topk`: whether what 4k latents leave unexplained counts too, with weight 1/8.
    multi_topk: bool = fixed(false);
    /// For transcoders: whether a linear map of what is read is part of the reconstruction.
    skip_connection: bool = fixed(false);
    /// Whether `b_dec` is subtracted before encoding; never in a transcoder, whose `b_dec` belongs
    /// to the output.
    apply_b_dec_to_input: bool = read(|a, _| !a.transcodes, "`true`; for transcoders `false`");
    /// Start of `b_dec`: the `geometric_median` (of at most 4,096 rows) or the `mean` of the first
    /// batch, or `zeros`.
    b_dec_init: DecoderBiasStart = fixed(DecoderBiasStart::GeometricMedian);
    /// Norm of the rows of `W_enc` at the start. They have the directions of the rows of `W_dec`,
    /// but a transcoder's have directions of their own. `matching_pursuit` ignores it.
    encoder_init_norm: f64 = later(|w| w.encoder_init_norm(), "0.4; with `decoder_norm = \"free\"` `decoder_init_norm`; for transcoders 1"), "more than 0" => |v| *v as f32 > 0.0 && (*v as f32).is_finite();
    /// Norm of the rows of `W_dec` at the start.
    decoder_init_norm: f64 = later(
        |w| w.decoder_init_norm(),
        "1, or 0.1 with `decoder_norm = \"free\"` (but 1 for `matching_pursuit`, and 0 for `topk`, `batchtopk` and `matryoshka` transcoders)"
    );
}

table! {
    /// `[training]`: the optimization.
    TrainingConfig -> ResolvedTraining, "training";
    /// Activations to train on. The number of steps is that of the whole batches in them.
    tokens: u64 = fixed(1_000_000);
    /// Activations per step.
    batch_tokens: usize = fixed(2048), "at least 1" => |v| *v > 0;
    /// `adam`; `signum`: the sign of the mean gradient; `muon`: the mean gradient of a matrix made
    /// orthogonal, biases by Adam.
    optimizer: Optimizer = fixed(Optimizer::Adam);
    /// Highest learning rate.
    lr: f64 = later(
        |w| w.lr(),
        "0.095 × √(batch_tokens / (width × latents)) × (300 / steps)^¼, the last factor at most 1; at least 2e-4 / √(latents / 16384); for `standard` 3e-4; `signum`: 5e-3 / √(d_sae / 16384); `muon`: 2e-3"
    ), "0 or more" => |v| *v >= 0.0;
    /// Steps over which the rate rises linearly from 0.
    lr_warmup_steps: u64 = later(|w| (w.steps / 20).min(1000), "a twentieth of the steps, at most 1000");
    /// Last part of the run, over which the rate falls linearly to 0.
    lr_decay_fraction: f64 = fixed(0.2), "0 to 1" => |v| (0.0..=1.0).contains(v);
    /// Decay of the mean gradient, for all optimizers.
    adam_beta1: f64 = read(|a, _| a.optimizer.default_decay(), "0.9; `signum` and `muon`: 0.95"), "0 to below 1" => |v| (0.0..1.0).contains(v);
    /// Adam's decay of the mean squared gradient.
    adam_beta2: f64 = fixed(0.999), "0 to below 1" => |v| (0.0..1.0).contains(v);
    /// Adam's epsilon. It is small because the gradients of rare latents are.
    adam_eps: f64 = fixed(6.25e-10), "more than 0" => |v| *v as f32 > 0.0;
    /// The main loss. `local`: the squared error of the reconstruction. For `kl` and `ce` the model
    /// runs on with the reconstruction in place; the loss is the divergence from its original
    /// predictions (`kl`) or the cross-entropy of the next tokens (`ce`), mean over tokens
    /// ([end-to-end losses](../methods/end-to-end.md)). Both are for `topk`, `batchtopk`,
    /// `standard` and `jumprelu`. Their batches are whole blocks in random order: `batch_tokens` is
    /// a multiple of `corpus.context`, tokens that are left out make a batch smaller, and
    /// `activations.store` cannot be used.
    loss: Loss = fixed(Loss::Local);
    /// For `kl` and `ce`: weight of the local loss beside it. It is needed where one of several
    /// hook points that are written is in the residual stream, which hides what is written before.
    local_coefficient: f64 = fixed(0.0), "0 or more" => |v| *v >= 0.0;
    /// For `standard`: `l1`, the sum of activation times decoder norm; `tanh`, the sum of
    /// tanh(`tanh_scale` × activation × decoder norm), which stops growing with large activations.
    sparsity_penalty: SparsityPenalty = fixed(SparsityPenalty::L1);
    /// For `tanh`: the factor inside it.
    tanh_scale: f64 = fixed(4.0), "more than 0" => |v| *v as f32 > 0.0;
    /// For `standard` and `gated`: weight of the penalty against the squared error summed over
    /// dimensions, on normalized activations. SAELens scales activations to norm √d: its
    /// coefficient over √d is this one.
    l1_coefficient: f64 = fixed(0.05), "0 or more" => |v| *v >= 0.0;
    /// Steps over which the weight of a sparsity penalty rises linearly, that of `jumprelu` too.
    sparsity_warmup_steps: u64 = later(|w| w.sparsity_warmup_steps(), "a twentieth of the steps; with `coder.target_l0` 0");
    /// Steps over which active latents fall from `coder.k_start` to `coder.k`.
    k_anneal_steps: u64 = later(|w| w.k_anneal_steps(), "half of all, with `coder.k_start`");
    /// What brings dead latents back: `aux_k`, an auxiliary loss (`topk`, `batchtopk`,
    /// `matryoshka`); `ghost_gradients` (`standard`, `jumprelu`); `resampling` (the same two and
    /// `matching_pursuit`, not across layers); `none` ([what they
    /// are](../methods/dead-latents.md)).
    revival: DeadLatents = read(|a, _| a.dead_latents(), "`\"aux_k\"` for `topk`, `batchtopk` and `matryoshka`, else `\"none\"`");
    /// For `resampling`: steps between two resamplings, none of which is in the last fifth of the
    /// run.
    resample_every_steps: u64 = later(|w| w.resample_every_steps(), "a fifth of the steps");
    /// Dead latents that reconstruct a token's residual; 0: no auxiliary loss.
    aux_k: usize = later(|w| w.aux_k(), "`coder.k`, at least 32, at most half the width");
    /// Weight of the auxiliary loss.
    aux_k_coefficient: f64 = later(|w| w.facts.aux_k_coefficient, "1/256, for `matryoshka` 1/32"), "0 or more" => |v| *v >= 0.0;
    /// A latent that has not fired for this many tokens is dead.
    dead_after_tokens: u64 = later(|w| (w.tokens / 30).min(10_000_000), "a thirtieth of `tokens`, at most 10 million");
    /// Steps between two counts of the dead latents. More steps mean fewer waits for the device.
    dead_check_every_steps: u64 = fixed(4), "at least 1" => |v| *v > 0;
    /// `unit`: rows of `W_dec` keep norm 1. `free`, only for coders that have it by default: the L1
    /// penalty weighs each latent by its row's norm, and rows are scaled to norm 1 at the end.
    decoder_norm: DecoderNorm = read(
        |a, _| a.decoder_norm(),
        "`\"unit\"`, or `\"free\"` for `standard`, `matching_pursuit` and `topk`, `batchtopk` and `matryoshka` transcoders"
    );
    /// Largest norm of the whole gradient; 0: no limit.
    clip_grad_norm: f64 = fixed(0.0), "0 or more" => |v| *v >= 0.0;
    /// For `batchtopk` and `matryoshka`: decay of the running average that becomes the threshold.
    threshold_decay: f64 = later(|w| w.threshold_decay(), "such that about the last fiftieth of the steps counts, at most 0.99"), "0 to below 1" => |v| (0.0..1.0).contains(v);
    /// Steps between checkpoints; 0: every ten minutes. One is written at the end as well.
    checkpoint_every_steps: u64 = fixed(0);
    /// Steps between lines of `metrics.jsonl`. The first and the last step are always logged.
    log_every_steps: u64 = fixed(10), "at least 1" => |v| *v > 0;
}

table! {
    /// `[evaluation]`: metrics after training.
    EvaluationConfig, "evaluation";
    /// Text to evaluate on.
    corpus: String = read(|a, _| a.evaluation_corpus(), "`\"embedded:heldout\"` with the embedded corpus, else the training corpus");
    /// Tokens to evaluate on, rounded down to whole blocks; 0: no evaluation.
    tokens: u64 = read(|a, _| if a.has_two_models { 0 } else { 32_768 }, "`32768`; with a second model `0`");
}

table! {
    /// `[features]`: feature tables after training.
    FeaturesConfig, "features";
    /// Tokens of the training corpus, from its beginning, that go into the statistics; 0: no tables
    /// and no report.
    tokens: u64 = fixed(200_000);
    /// Strongest contexts kept for each latent. Two from each of three weaker bands come on top.
    examples_per_feature: usize = fixed(16);
}
