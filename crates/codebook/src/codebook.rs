//! A codebook: a layer that replaces a vector by the sum of its `k` nearest codes (Tamkin,
//! Taufeeque, Goodman 2023, "Codebook Features", arXiv 2310.17230). With `k` = 1 it is the vector
//! quantization of van den Oord et al. 2017.
//!
//! ```text
//! score(a, c) = ⟨a, c⟩ / ‖c‖          cosine similarity up to the factor 1/‖a‖
//!             = ⟨a, c⟩ − ‖c‖² / 2     squared distance up to the constant ‖a‖² and the factor −1/2
//! out         = Σ of the k codes with the highest scores, or their mean
//! ```
//!
//! With `layer_norm`, `a` is the LayerNorm of the vector: its mean is subtracted, and the rest is
//! divided by its standard deviation.

use crate::CodebookError;
use burn::tensor::{Int, Tensor};
use lapidary_io::settings::Named;
use lapidary_kernels::{EncoderState, SparseCodes, decode_sparse, encode_topk};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// Keeps the direction of a code of norm 0 finite; its score is 0 then.
const SMALLEST_NORM: f32 = 1e-20;

/// Added to a variance, as in PyTorch's LayerNorm.
const LAYER_NORM_EPS: f32 = 1e-5;

/// Which codes are near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    /// Those at the smallest angle.
    Cosine,
    /// Those at the smallest distance.
    Euclidean,
}

/// What the chosen codes become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combination {
    /// Their sum, as in the paper.
    Sum,
    /// Their mean, as in the authors' code. The same up to the scale of the codes.
    Mean,
}

/// Which gradients codes and input get. The task's gradient always reaches the input as if the
/// layer were the identity (straight-through, Bengio et al. 2013).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeLoss {
    /// Codes: the gradient of the task. The authors' `base`.
    Task,
    /// Codes: the task, and `mse_weight · ‖out − a‖²` with `a` constant. The authors' `aeloss`.
    TaskMse,
    /// Codes: `mse_weight · ‖out − a‖²` with `a` constant, not the task. Input: also
    /// `commitment · ‖out − a‖²` with `out` constant. The authors' `vqvae`.
    Vqvae,
    /// Codes as in [`Self::TaskMse`], input as in [`Self::Vqvae`]. The authors' `fullaeloss`.
    TaskVqvae,
}

impl CodeLoss {
    fn task_reaches_codes(self) -> bool {
        self != Self::Vqvae
    }

    fn has_mse(self) -> bool {
        self != Self::Task
    }

    fn has_commitment(self) -> bool {
        matches!(self, Self::Vqvae | Self::TaskVqvae)
    }
}

impl Named for Assignment {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::Cosine, "cosine"), (Self::Euclidean, "euclidean")];
}

impl Named for Combination {
    const NAMES: &'static [(Self, &'static str)] = &[(Self::Sum, "sum"), (Self::Mean, "mean")];
}

impl Named for CodeLoss {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Task, "task"),
        (Self::TaskMse, "task_mse"),
        (Self::Vqvae, "vqvae"),
        (Self::TaskVqvae, "task_vqvae"),
    ];
}

/// The sizes and choices of a codebook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodebookOptions {
    /// Codes per group.
    pub n_codes: usize,
    /// Codes per vector.
    pub k: usize,
    /// Which codes are near.
    pub assignment: Assignment,
    /// What the chosen codes become.
    pub combination: Combination,
    /// Whether codes are compared with the LayerNorm of a vector (of each group's part) rather than
    /// with the vector itself.
    #[serde(default)]
    pub layer_norm: bool,
    /// Which gradients there are.
    pub loss: CodeLoss,
    /// λ: the weight of the squared error in the codes' gradient.
    pub mse_weight: f32,
    /// β: the weight of the squared error in the input's gradient.
    pub commitment: f32,
}

impl Default for CodebookOptions {
    /// The paper's: 10 000 codes, 8 per vector, by cosine similarity, summed; task and squared
    /// error with λ = 1; β = 0.25.
    fn default() -> Self {
        Self {
            n_codes: 10_000,
            k: 8,
            assignment: Assignment::Cosine,
            combination: Combination::Sum,
            layer_norm: false,
            loss: CodeLoss::TaskMse,
            mse_weight: 1.0,
            commitment: 0.25,
        }
    }
}

impl CodebookOptions {
    /// How long a code is beside an input, so that `k` codes come to it: 1 where their mean is
    /// formed, 1/k where they are summed.
    pub(crate) fn part(&self) -> f32 {
        match self.combination {
            Combination::Sum => 1.0 / self.k as f32,
            Combination::Mean => 1.0,
        }
    }
}

/// The `k` nearest of `codes` `[n_codes, d]` for each row of `a` `[n, d]`, nearest first, and their
/// scores; of equal scores the lower code. Exact: the choice is that of [`encode_topk`], with unit
/// codes as its rows (cosine) or `−‖c‖²/2` as its bias (Euclidean). Scores may be negative.
///
/// # Panics
/// When the widths differ, `k` is 0 or there are no codes.
pub fn nearest_codes(
    a: Tensor<2>,
    codes: Tensor<2>,
    k: usize,
    assignment: Assignment,
    state: &EncoderState,
) -> SparseCodes {
    EncoderRows::of(codes, assignment).nearest(a, k, state)
}

/// What the TopK encoder reads in place of codes.
#[derive(Debug, Clone)]
pub(crate) struct EncoderRows {
    /// `[n_codes, d]`
    rows: Tensor<2>,
    /// `[n_codes]`
    bias: Tensor<1>,
    /// What the encoder's scores lack, `[1]`. The encoder is fastest where biases are around 0.
    offset: Option<Tensor<1>>,
}

impl EncoderRows {
    fn of(codes: Tensor<2>, assignment: Assignment) -> Self {
        let squares = codes.clone().square().sum_dim(1); // [n_codes, 1]
        let [n_codes, _] = codes.dims();
        match assignment {
            Assignment::Cosine => Self {
                bias: Tensor::zeros([n_codes], &codes.device()),
                rows: codes / squares.sqrt().clamp_min(SMALLEST_NORM),
                offset: None,
            },
            Assignment::Euclidean => {
                let bias = squares.reshape([n_codes]) * -0.5;
                let mean = bias.clone().mean();
                Self {
                    rows: codes,
                    bias: bias - mean.clone(),
                    offset: Some(mean),
                }
            }
        }
    }

    fn nearest(&self, a: Tensor<2>, k: usize, state: &EncoderState) -> SparseCodes {
        let mut found = encode_topk(a, self.rows.clone(), self.bias.clone(), k, state);
        if let Some(offset) = &self.offset {
            found.values = found.values + offset.clone().unsqueeze::<2>();
        }
        found
    }
}

/// What a codebook makes of a batch.
#[derive(Debug, Clone)]
pub struct Snapped {
    /// In place of the input, `[n, groups * d]`.
    pub value: Tensor<2>,
    /// The squared errors that train codes and input, weighted and summed over rows, `[1]`; none
    /// where nothing tracks gradients or [`CodeLoss::Task`] has none.
    pub loss: Option<Tensor<1>>,
    /// The chosen codes of each group, nearest first, `[n, k]` each.
    pub codes: Vec<Tensor<2, Int>>,
}

/// A codebook, or several side by side on groups of columns (one for each head).
#[derive(Debug, Clone)]
pub struct Codebook {
    options: CodebookOptions,
    groups: usize,
    /// `[groups * n_codes, d]`
    codes: Tensor<2>,
    /// Those of each group, once they were needed.
    rows: OnceLock<Vec<EncoderRows>>,
    states: Vec<EncoderState>,
}

impl Codebook {
    /// A codebook of `groups * n_codes` codes, those of the first group first,
    /// `[groups * n_codes, d]`.
    ///
    /// # Errors
    /// When `k` is not between 1 and `n_codes`, or the number of codes is another.
    pub fn new(
        options: CodebookOptions,
        groups: usize,
        codes: Tensor<2>,
    ) -> Result<Self, CodebookError> {
        let n = options.n_codes;
        if n == 0 {
            return Err(CodebookError::value("n_codes", 0, "at least 1"));
        }
        if options.k == 0 || options.k > n {
            let expected = format!("1 to n_codes = {n}");
            return Err(CodebookError::value("k", options.k, expected));
        }
        let [rows, _] = codes.dims();
        if groups == 0 || rows != groups * n {
            let expected = format!("{groups} groups of {n} codes");
            return Err(CodebookError::value("codes", rows, expected));
        }
        Ok(Self {
            options,
            groups,
            codes,
            rows: OnceLock::new(),
            states: (0..groups).map(|_| EncoderState::default()).collect(),
        })
    }

    /// Sizes and choices.
    pub fn options(&self) -> &CodebookOptions {
        &self.options
    }

    /// Groups of columns, each with codes of its own.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Width of a code.
    pub fn d(&self) -> usize {
        self.codes.dims()[1]
    }

    /// The codes, `[groups * n_codes, d]`.
    pub fn codes(&self) -> &Tensor<2> {
        &self.codes
    }

    /// The same codebook with other codes of the same shape.
    ///
    /// # Panics
    /// When the shape is another.
    pub fn set_codes(&mut self, codes: Tensor<2>) {
        assert_eq!(codes.dims(), self.codes.dims(), "codes keep their shape");
        self.put_codes(codes);
    }

    /// Takes the codes out, so that an update can reuse their memory; [`Self::set_codes`] does not
    /// put them back, [`Self::put_codes`] does.
    pub(crate) fn take_codes(&mut self) -> Tensor<2> {
        let device = self.codes.device();
        self.rows = OnceLock::new();
        std::mem::replace(&mut self.codes, Tensor::empty([0, 0], &device))
    }

    pub(crate) fn put_codes(&mut self, codes: Tensor<2>) {
        self.rows = OnceLock::new();
        self.codes = codes;
    }

    /// The nearest codes of each group, `[n, k]` each, for `a` `[n, groups * d]`.
    pub fn nearest(&self, a: &Tensor<2>) -> Vec<Tensor<2, Int>> {
        self.nearest_to_input(&self.input(a.clone()))
    }

    fn nearest_to_input(&self, input: &Tensor<2>) -> Vec<Tensor<2, Int>> {
        let of = |group| self.nearest_with_scores(group, input).indices;
        (0..self.groups).map(of).collect()
    }

    /// The nearest codes of one group and their scores, `[n, k]` each, for an [input](Self::input).
    pub(crate) fn nearest_with_scores(&self, group: usize, a: &Tensor<2>) -> SparseCodes {
        let (k, state) = (self.options.k, &self.states[group]);
        self.encoder_rows()[group].nearest(self.columns_of(a, group), k, state)
    }

    /// The codes as the encoder reads them, computed once after each change of the codes.
    ///
    /// Several threads that read one codebook compute them before they start: a thread that
    /// computed them inside a parallel loop could be handed another part of that loop, which waits
    /// for them.
    pub(crate) fn encoder_rows(&self) -> &[EncoderRows] {
        self.rows.get_or_init(|| {
            let of =
                |group| EncoderRows::of(self.codes_of(&self.codes, group), self.options.assignment);
            (0..self.groups).map(of).collect()
        })
    }

    /// The codes of a group, `[n_codes, d]`.
    fn codes_of(&self, codes: &Tensor<2>, group: usize) -> Tensor<2> {
        let n = self.options.n_codes;
        codes.clone().narrow(0, group * n, n)
    }

    /// What codes are compared with, `[n, groups * d]`, for `a` of the same shape: `a` itself or,
    /// with `layer_norm`, the LayerNorm of each group's part.
    pub(crate) fn input(&self, a: Tensor<2>) -> Tensor<2> {
        match self.options.layer_norm {
            true => layer_norm(a, self.groups),
            false => a,
        }
    }

    /// The columns that a group reads, `[n, d]`.
    fn columns_of(&self, a: &Tensor<2>, group: usize) -> Tensor<2> {
        let d = a.dims()[1] / self.groups;
        a.clone().narrow(1, group * d, d)
    }

    /// What chosen codes become, `[n, d]`. `chosen` are numbers within the group, `[n, k]`; −1 adds
    /// nothing.
    pub fn combine(&self, group: usize, chosen: Tensor<2, Int>) -> Tensor<2> {
        self.combined(self.codes_of(&self.codes, group), chosen)
    }

    fn combined(&self, codes: Tensor<2>, chosen: Tensor<2, Int>) -> Tensor<2> {
        let each = match self.options.combination {
            Combination::Sum => 1.0,
            Combination::Mean => 1.0 / self.options.k as f32,
        };
        // A value of 0 adds nothing, whatever the index.
        let is_code = chosen.clone().greater_equal_elem(0).float();
        let values = is_code * each;
        let indices = chosen.clamp_min(0);
        decode_sparse(SparseCodes { values, indices }, codes)
    }

    /// Replaces each row of `a`, `[n, groups * d]`, by what its nearest codes become.
    pub fn apply(&self, a: &Tensor<2>) -> Snapped {
        let codes = self.nearest(a);
        let parts = codes.iter().enumerate();
        let parts = parts.map(|(group, chosen)| self.combine(group, chosen.clone()));
        Snapped {
            value: Tensor::cat(parts.collect(), 1),
            loss: None,
            codes,
        }
    }

    /// The same with gradients: `a` and `codes` (the codebook's own) track them, and [`CodeLoss`]
    /// says which they are. The values are those of [`Self::apply`].
    pub fn apply_tracked(&self, a: Tensor<2>, codes: Tensor<2>) -> Snapped {
        let o = &self.options;
        let a = self.input(a);
        let (mut parts, mut chosen) = (vec![], vec![]);
        let nearest = self.nearest_to_input(&a.clone().inner());
        for (group, indices) in nearest.into_iter().enumerate() {
            parts.push(self.combined(self.codes_of(&codes, group), indices.clone()));
            chosen.push(indices);
        }
        let out = Tensor::cat(parts, 1); // [n, groups * d], tracks the codes
        let mut loss: Option<Tensor<1>> = None;
        let mut add = |term: Tensor<1>| {
            loss = Some(match loss.take() {
                Some(loss) => loss + term,
                None => term,
            });
        };
        if o.loss.has_mse() {
            let error = (out.clone() - a.clone().detach()).square().sum();
            add(error * o.mse_weight);
        }
        if o.loss.has_commitment() {
            let error = (out.clone().detach() - a.clone()).square().sum();
            add(error * o.commitment);
        }
        let to_codes = match o.loss.task_reaches_codes() {
            true => out,
            false => out.detach(),
        };
        // Exactly `out`: the difference is 0 for every finite number.
        let value = to_codes + (a.clone() - a.detach());
        Snapped {
            value,
            loss,
            codes: chosen,
        }
    }
}

/// The LayerNorm of each group's part of `a`, `[n, groups * d]` (Ba et al. 2016), without trained
/// weights.
pub(crate) fn layer_norm(a: Tensor<2>, groups: usize) -> Tensor<2> {
    let [n, width] = a.dims();
    let a = a.reshape([n, groups, width / groups]);
    let centred = a.clone() - a.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2); // [n, groups, 1]
    let normalized = centred / (variance + LAYER_NORM_EPS).sqrt();
    normalized.reshape([n, width])
}
