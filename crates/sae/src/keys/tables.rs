//! The tables of a recipe that every architecture has.

use lapidary_activations::{NormalizationKind, TEXT_FIELD};
use lapidary_coder::ArchitectureKind;

use super::names::{DeadLatents, DecoderBiasStart, DecoderNorm, Loss, Optimizer, SparsityPenalty};
use super::table::table;

table! {
    /// `[corpus]`: the text to train on.
    CorpusConfig, "corpus";
    /// A text, JSON or Parquet file; a folder of such files; a dataset of the hub, `hf:OWNER/NAME`;
    /// `embedded`, the training part of the text inside the program; or `embedded:heldout`, its
    /// held-out part. A folder and a dataset can be followed by `:SPLIT` ([which files are
    /// read](../how-to/own-model-and-text.md#the-text)).
    path: String = fixed("embedded".to_owned());
    /// The field of JSON, or the column of Parquet, that holds the text.
    text_field: String = fixed(TEXT_FIELD.to_owned());
    /// Number of tokens per block, including BOS. It cannot be larger than the context length of
    /// the model.
    context: usize = fixed(128), "at least 2" => |v| *v > 1;
    /// Whether each sequence starts with the tokenizer's beginning-of-sequence token.
    prepend_bos: bool = fixed(true);
    /// Whether all documents in a block are one sequence. If `false`, each document in a block is a
    /// sequence of its own: its positions start at 0, and its tokens do not attend to earlier
    /// documents.
    attend_across_documents: bool = fixed(false);
}

table! {
    /// `[activations]`: from text to shuffled, normalized batches.
    ActivationsConfig -> ResolvedActivations, "activations";
    /// Number of activations in the shuffle buffer, from which batches are drawn at random. It must
    /// be at least `training.batch_tokens`. The buffer is refilled when it is less than half full.
    /// With a model loss (`training.loss`), whole blocks are shuffled instead: the program reads a
    /// window of this many tokens, rounded down to whole batches, and puts its blocks into a random
    /// order. With a store, the key sets the number of activations in the window of the
    /// [shuffle](../methods/activations.md#shuffling-a-store).
    buffer_tokens: usize = fixed(65_536);
    /// Number of blocks that go through the model at once to refill the buffer. The statistics in
    /// [`first_batch.json`](files.md#first_batchjson) are computed on this number of blocks. With a
    /// model loss or a store, the key affects only `first_batch.json`.
    harvest_blocks: usize = fixed(16), "at least 1" => |v| *v > 0;
    /// `unit_norm`: activations are multiplied by one factor, so that their mean squared norm is 1.
    /// `mean_centred`: the mean activation is subtracted, then the same is done as for `unit_norm`.
    /// `none`: activations stay unchanged. The mean activation and the factor are folded into the
    /// saved weights. They are estimated once, before training, from the first full buffer. With a
    /// store, they come from the first window. With a model loss, they come from about 16,384
    /// tokens of the first window.
    normalization: NormalizationKind = fixed(NormalizationKind::UnitNorm);
    /// A [store of activations](files.md#a-store-of-activations), or [a cache of
    /// SAELens](../how-to/store.md#a-cache-that-saelens-wrote), from which training reads the
    /// activations. The model then does not run on the text, and the defaults of `model`,
    /// `[corpus]` and `[activations.exclude]` are the values of the store. If the store has only
    /// one hook point, this hook point is the default of `hook_point`. If the recipe sets one of
    /// these keys, the value must be that of the store.
    store: String = optional("absent");
    /// Seed for the order of the activations. Coders that are [trained in one
    /// run](../how-to/several-coders.md) share this seed.
    seed: u64 = later(|w| w.order_seed, "the recipe's `seed`");
}

table! {
    /// `[activations.exclude]`: which tokens' activations are left out of training.
    ExcludeConfig, "activations.exclude";
    /// Whether activations at BOS and EOS are left out of training.
    special_tokens: bool = fixed(true);
    /// Number of tokens at the start of each sequence, including BOS, whose activations are left
    /// out.
    first_positions: usize = fixed(0);
    /// An activation is left out if its norm is more than this number times the median norm, as at
    /// attention sinks. The median is computed on the first blocks that go through the model
    /// together (usually `activations.harvest_blocks` blocks). With several hook points, a token is
    /// left out if its activation has too large a norm at any of them. 0: no limit.
    norm_multiple: f64 = fixed(10.0), "0 or more" => |v| *v == 0.0 || (*v as f32 > 0.0 && (*v as f32).is_finite());
}

table! {
    /// `[coder]`: the sparse coder.
    CoderConfig -> ResolvedCoder, "coder";
    /// How latents are chosen.
    architecture: ArchitectureKind = fixed(ArchitectureKind::TopK);
    /// Number of latents; in a cross-layer transcoder, per layer. With several hook points, the
    /// default uses the width at the first hook point.
    d_sae: usize = later(|w| w.d_sae, "`expansion_factor` × width"), "1 to 2147483647" => |v| *v > 0 && i32::try_from(*v).is_ok();
    /// Number of latents divided by the width of the activations. It cannot be set together with
    /// `d_sae`.
    expansion_factor: f64 = optional("16"), "more than 0" => |v| *v > 0.0;
    /// Number of active latents per token; in a cross-layer transcoder, per layer. For
    /// `matching_pursuit`: the number of steps. In `standard`, `jumprelu`, `gated` and `proximal`,
    /// `k` does not set the number of active latents. Only the default of `training.aux_k` depends
    /// on it.
    k: usize = fixed(32), "at least 1" => |v| *v > 0;
    /// Target number of active latents per token in training; in a cross-layer transcoder, per
    /// layer. [A controller](../methods/target-l0.md) adapts the weight of the penalty, so the
    /// weight in the recipe is only the start value. For `standard`, `gated`, `proximal`, and
    /// `jumprelu` with penalty `step` or `tanh`.
    target_l0: f64 = optional("absent"), "more than 0" => |v| *v > 0.0 && v.is_finite();
    /// Number of active latents per token at the start, at least `k`. The number falls linearly to
    /// `k` over `training.k_anneal_steps`. For `topk`, `batchtopk` and `matryoshka`.
    k_start: usize = optional("absent");
    /// For `topk`: whether the loss has a second error term, with weight 1/8. Its reconstruction
    /// uses the 4 × `k` largest pre-activations of each token.
    multi_topk: bool = fixed(false);
    /// For transcoders: whether a linear map of the input is added to the reconstruction.
    skip_connection: bool = fixed(false);
    /// Whether `b_dec` is subtracted from the input before encoding. It must be `false` for
    /// transcoders, where `b_dec` belongs to the output.
    apply_b_dec_to_input: bool = read(|a, _| !a.transcodes, "`true`; for transcoders `false`");
    /// Start value of `b_dec`: the `geometric_median` of the first batch (computed on at most 4,096
    /// of its activations), the `mean` of the first batch, or `zeros`.
    b_dec_init: DecoderBiasStart = fixed(DecoderBiasStart::GeometricMedian);
    /// Norm of the rows of `W_enc` at the start. In transcoders, the rows of `W_enc` start with
    /// random directions. In other coders, they start with the directions of the rows of `W_dec`.
    /// `matching_pursuit` does not use this key.
    encoder_init_norm: f64 = later(|w| w.encoder_init_norm(), "transcoders: 1. Other coders with `training.decoder_norm = \"free\"` and no `coder.target_l0`: the value of `coder.decoder_init_norm`. All others: 0.4"), "more than 0" => |v| *v as f32 > 0.0 && (*v as f32).is_finite();
    /// Norm of the rows of `W_dec` at the start.
    decoder_init_norm: f64 = later(
        |w| w.decoder_init_norm(),
        "1; with `training.decoder_norm = \"free\"`, it depends on the coder ([list](#default-norm-of-decoder-rows))"
    );
}

table! {
    /// `[training]`: the optimization.
    TrainingConfig -> ResolvedTraining, "training";
    /// Number of activations to train on. The number of steps is `tokens` / `batch_tokens`, rounded
    /// down.
    tokens: u64 = fixed(1_000_000);
    /// Number of activations per step.
    batch_tokens: usize = fixed(2048), "at least 1" => |v| *v > 0;
    /// `adam`: Adam. `signum`: the step is the sign of the moving average of the gradient. `muon`:
    /// the step of a matrix is this moving average, made orthogonal; biases are updated by Adam
    /// ([formulas](../methods/optimizers.md)).
    optimizer: Optimizer = fixed(Optimizer::Adam);
    /// Highest learning rate.
    lr: f64 = later(
        |w| w.lr(),
        "depends on sizes, optimizer and architecture ([formula](#default-learning-rate))"
    ), "0 or more" => |v| *v >= 0.0;
    /// Number of steps over which the learning rate rises linearly from 0.
    lr_warmup_steps: u64 = later(|w| (w.steps / 20).min(1000), "a twentieth of the steps, at most 1000");
    /// Fraction of the steps, at the end of the run, over which the learning rate falls linearly
    /// to 0.
    lr_decay_fraction: f64 = fixed(0.2), "0 to 1" => |v| (0.0..=1.0).contains(v);
    /// Only if `training.loss` is `local`: whether a coder that diverges restarts with half the
    /// learning rate and trains for the remaining steps
    /// ([rule](../methods/optimizers.md#a-coder-that-diverges)).
    restart_if_diverging: bool = fixed(true);
    /// Decay of the moving average of the gradient, for all optimizers.
    adam_beta1: f64 = read(|a, _| a.optimizer.default_decay(), "0.9; `signum` and `muon`: 0.95"), "0 to below 1" => |v| (0.0..1.0).contains(v);
    /// Decay of the moving average of the squared gradient, for Adam.
    adam_beta2: f64 = fixed(0.999), "0 to below 1" => |v| (0.0..1.0).contains(v);
    /// Adam's epsilon. The default, 6.25e-10, is small because the gradients of rarely active
    /// latents are small.
    adam_eps: f64 = fixed(6.25e-10), "more than 0" => |v| *v as f32 > 0.0;
    /// The main loss. `local`: the error of the reconstruction (FVU for `topk`, `batchtopk`,
    /// `matryoshka` and `matching_pursuit`, squared error for the others). `kl` and `ce` are model
    /// losses ([end-to-end losses](../methods/end-to-end.md)): the reconstruction is spliced into
    /// the model. `kl`: KL divergence from the model's original predictions, mean over tokens.
    /// `ce`: cross-entropy of the next tokens, mean over tokens. Model losses are possible for
    /// `topk`, `batchtopk`, `standard` and `jumprelu`. The batches of a model loss are whole blocks
    /// in random order, so `batch_tokens` must be a multiple of `corpus.context`. A batch may have
    /// fewer than `batch_tokens` activations, since the tokens that `activations.exclude` leaves
    /// out are missing. With a model loss, `activations.store` cannot be used.
    loss: Loss = fixed(Loss::Local);
    /// For `kl` and `ce`: weight of the local loss, which is added to the model loss. The weight
    /// must be above 0 if the coder reconstructs several hook points and one of them is in the
    /// residual stream. The reason: a reconstruction in the residual stream replaces
    /// everything that earlier parts of the model wrote there, so reconstructions at earlier hook
    /// points have no effect on the model loss.
    local_coefficient: f64 = fixed(0.0), "0 or more" => |v| *v >= 0.0;
    /// The penalty of `standard`, a sum over latents. `l1`: activation × decoder norm. `tanh`:
    /// tanh(`tanh_scale` × activation × decoder norm), which is at most 1 per latent.
    sparsity_penalty: SparsityPenalty = fixed(SparsityPenalty::L1);
    /// For `tanh`: the factor inside the tanh.
    tanh_scale: f64 = fixed(4.0), "more than 0" => |v| *v as f32 > 0.0;
    /// For `standard` and `gated`: weight of the penalty in the loss. The squared error, summed
    /// over dimensions, has weight 1. By default, activations are normalized to mean squared
    /// norm 1. SAELens scales them to norm √d, where d is their width. So a coefficient c in
    /// SAELens corresponds to c / √d here.
    l1_coefficient: f64 = fixed(0.05), "0 or more" => |v| *v >= 0.0;
    /// Number of steps over which the weight of the sparsity penalty rises linearly from 0, for all
    /// architectures with a penalty.
    sparsity_warmup_steps: u64 = later(|w| w.sparsity_warmup_steps(), "a twentieth of the steps; 0 with `coder.target_l0`");
    /// Number of steps over which the number of active latents falls from `coder.k_start` to
    /// `coder.k`.
    k_anneal_steps: u64 = later(|w| w.k_anneal_steps(), "half of the steps, if `coder.k_start` is set");
    /// Treatment of dead latents ([definitions](../methods/dead-latents.md)). `aux_k`: an auxiliary
    /// loss, for all architectures except `matching_pursuit`. `ghost_gradients`: for `standard` and
    /// `jumprelu`. `resampling`: for `standard`, `jumprelu` and `matching_pursuit`, but not for
    /// cross-layer transcoders. `none`: no treatment.
    revival: DeadLatents = read(|a, _| a.dead_latents(), "`\"aux_k\"`; for `matching_pursuit`, `\"none\"`");
    /// For `resampling`: number of steps between two resamplings. There is no resampling in the
    /// last fifth of the run.
    resample_every_steps: u64 = later(|w| w.resample_every_steps(), "a fifth of the steps");
    /// For `aux_k`: number of dead latents that reconstruct a token's residual. 0: no auxiliary
    /// loss.
    aux_k: usize = later(|w| w.aux_k(), "min(max(k, 32), width / 2), where k is `coder.target_l0` if it is set, otherwise `coder.k`");
    /// For `aux_k`: weight of the auxiliary loss.
    aux_k_coefficient: f64 = fixed(1.0 / 32.0), "0 or more" => |v| *v >= 0.0;
    /// A latent that has not fired for this many tokens is dead.
    dead_after_tokens: u64 = later(|w| (w.tokens / 30).min(10_000_000), "a thirtieth of `tokens`, at most 10 million");
    /// Number of steps between two counts of the dead latents. With a larger number, the program
    /// waits for the device less often.
    dead_check_every_steps: u64 = fixed(4), "at least 1" => |v| *v > 0;
    /// `unit`: the rows of `W_dec` keep norm 1. `free`: the rows may have any norm, and the penalty
    /// of `standard` contains this norm. At the end of training, free rows are scaled to norm 1,
    /// except in `topk` transcoders. `free` is possible only for coders whose default is `free`.
    decoder_norm: DecoderNorm = read(
        |a, _| a.decoder_norm(),
        "`\"free\"` for `standard`, for `matching_pursuit`, and for transcoders with `topk`, `batchtopk` or `matryoshka`; otherwise `\"unit\"`"
    );
    /// Maximum norm of the gradient of all weights together. 0: no limit.
    clip_grad_norm: f64 = fixed(0.0), "0 or more" => |v| *v >= 0.0;
    /// For `batchtopk` and `matryoshka`: decay of a moving average over batches. Each batch
    /// contributes the smallest pre-activation that was chosen in it. This average becomes the
    /// threshold of the finished coder.
    threshold_decay: f64 = later(|w| w.threshold_decay(), "1 − 50 / steps, but at least 0 and at most 0.99"), "0 to below 1" => |v| (0.0..1.0).contains(v);
    /// Number of steps between checkpoints. 0: a checkpoint every ten minutes. A last checkpoint is
    /// written at the end of training. When the run is finished, the checkpoint is removed, unless
    /// `--keep-checkpoint` or `--extend` is given.
    checkpoint_every_steps: u64 = fixed(0);
    /// Number of steps between lines of `metrics.jsonl`. The first and the last step are always
    /// logged.
    log_every_steps: u64 = fixed(10), "at least 1" => |v| *v > 0;
}

table! {
    /// `[evaluation]`: metrics after training.
    EvaluationConfig, "evaluation";
    /// Text to evaluate on.
    corpus: String = read(|a, _| a.evaluation_corpus(), "`\"embedded:heldout\"` with the embedded corpus, else the training corpus");
    /// Number of tokens to evaluate on, rounded down to whole blocks, but at least one block. 0: no
    /// evaluation.
    tokens: u64 = read(|a, _| if a.has_two_models { 0 } else { 32_768 }, "`32768`; `0` with `other_model`");
}

table! {
    /// `[features]`: feature tables after training.
    FeaturesConfig, "features";
    /// Number of tokens on which the tables are computed, from the beginning of the training
    /// corpus. 0: no tables and no report.
    tokens: u64 = fixed(200_000);
    /// Number of [contexts](tables.md#examplesparquet) with the highest peaks, per latent. A
    /// peak is the latent's largest activation in a block. Six weaker contexts are added: two have
    /// peaks near the 75 % quantile of the latent's peaks, two near 50 %, and two near 25 %.
    examples_per_feature: usize = fixed(16);
}
