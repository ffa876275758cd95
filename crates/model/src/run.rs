//! What a forward pass reads and changes on its way: captures, interventions, and leaves to
//! differentiate at.

use crate::ModelError;
use crate::hook::HookPoint;
use burn::tensor::{Bool, Int, Tensor, TensorData};
use std::collections::BTreeMap;

/// What a forward pass should read and change.
#[derive(Default, Clone)]
pub struct HookedRun<'a> {
    /// The hook points to return. The pass stops after the last of them, unless logits are asked
    /// for.
    pub capture: &'a [HookPoint],
    /// Changes on the way, those at one point in this order. What is captured there is the result.
    pub interventions: &'a [Intervention<'a>],
    /// Whether to go on to the logits and return them.
    pub logits: bool,
    /// Whether logits are computed at the last position only. They are then `[batch, 1, d_vocab]`,
    /// at [`HookPoint::Logits`] too.
    pub last_logits: bool,
    /// Where the pass starts; `None`: at the embeddings.
    pub start: Option<Start>,
    /// The document of each token of packed sequences, `[batch, pos]`, not decreasing along a
    /// sequence. Attention never crosses from one document into another and positions count from 0
    /// in each, so that a document's activations are those of the document alone. `None`: a
    /// sequence is one document.
    pub segments: Option<Tensor<2, Int>>,
    /// How gradients pass through what is not linear; the values are the same whatever they say.
    pub rules: BackwardRules,
}

/// A block at which a pass starts, in place of the embeddings. What comes before is neither
/// computed nor captured nor changed.
#[derive(Clone, Debug)]
pub struct Start {
    /// The block.
    pub layer: usize,
    /// What enters it ([`BlockHook::ResidPre`](crate::BlockHook::ResidPre)) in another run of the
    /// same tokens, `[batch, pos, d_model]`.
    pub resid_pre: Tensor<3>,
}

/// How gradients pass through the nonlinear parts of a transformer: each rule that is set replaces
/// the true derivative. With all but `frozen_patterns`, the gradients are the relevances of RelP
/// (Rezaei Jafari et al. 2025, arXiv 2508.21258).
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackwardRules {
    /// What a norm divides by is a constant.
    pub frozen_norms: bool,
    /// An activation function multiplies its input by a constant. ReLU, which does that, is left as
    /// it is.
    pub linear_activations: bool,
    /// Each of the two factors of a gated MLP has half of the gradient.
    pub halved_gates: bool,
    /// Attention patterns are constants: gradients pass through values alone.
    pub frozen_patterns: bool,
}

impl BackwardRules {
    /// Those of RelP.
    pub const RELP: Self = Self {
        frozen_norms: true,
        linear_activations: true,
        halved_gates: true,
        frozen_patterns: false,
    };
}

/// What a forward pass returns.
#[derive(Debug)]
pub struct RunOutput {
    /// The values at the hook points asked for, `[batch, pos, width]`; [`HookPoint`] says what
    /// widths are.
    pub captured: BTreeMap<HookPoint, Tensor<3>>,
    /// `[batch, pos, d_vocab]`, if asked for.
    pub logits: Option<Tensor<3>>,
}

impl RunOutput {
    /// The captured values at the points that `select` accepts as interventions that put them there
    /// again: attention patterns or norm scales frozen as they were, or one run's activations
    /// patched into another.
    pub fn freeze(&self, select: impl Fn(HookPoint) -> bool) -> Vec<Intervention<'static>> {
        let chosen = self.captured.iter().filter(|(at, _)| select(**at));
        chosen
            .map(|(at, value)| Intervention::set(*at, value.clone()))
            .collect()
    }
}

/// A change of the value at one hook point, everywhere or at some positions and heads.
#[derive(Clone)]
pub struct Intervention<'a> {
    /// Where.
    pub at: HookPoint,
    /// What happens to the value.
    pub edit: Edit<'a>,
    /// Only at these positions of each sequence; `None`: at all.
    pub positions: Option<Vec<usize>>,
    /// Only in these heads, at a point whose value has heads; `None`: in all.
    pub heads: Option<Vec<usize>>,
}

/// What an [`Intervention`] does to a value, `[batch, pos, width]`. Tensors may have 1 in place of
/// batch or pos.
#[derive(Clone)]
pub enum Edit<'a> {
    /// A function of the value, which keeps its shape.
    Function(&'a dyn Fn(Tensor<3>) -> Tensor<3>),
    /// Another value in its place.
    Set(Tensor<3>),
    /// Something added.
    Add(Tensor<3>),
    /// A factor.
    Scale(f32),
    /// Zeros in its place.
    Zero,
}

impl<'a> Intervention<'a> {
    fn new(at: HookPoint, edit: Edit<'a>) -> Self {
        Self {
            at,
            edit,
            positions: None,
            heads: None,
        }
    }

    /// A function of the value, `[batch, pos, width]` in and out.
    pub fn function(at: HookPoint, function: &'a dyn Fn(Tensor<3>) -> Tensor<3>) -> Self {
        Self::new(at, Edit::Function(function))
    }

    /// A value in place of what is there: resample ablation and patching, with a value captured
    /// from another run.
    pub fn set(at: HookPoint, value: Tensor<3>) -> Self {
        Self::new(at, Edit::Set(value))
    }

    /// Zero ablation.
    pub fn zero(at: HookPoint) -> Self {
        Self::new(at, Edit::Zero)
    }

    /// Mean ablation: the mean over sequences and positions of a value captured there,
    /// `[batch, pos, width]`.
    pub fn mean(at: HookPoint, reference: &Tensor<3>) -> Self {
        Self::set(at, reference.clone().mean_dim(1).mean_dim(0))
    }

    /// A direction added, `[width]`: steering.
    pub fn add(at: HookPoint, direction: Tensor<1>) -> Self {
        let width = direction.dims()[0];
        Self::new(at, Edit::Add(direction.reshape([1, 1, width])))
    }

    /// The value times a factor.
    pub fn scale(at: HookPoint, factor: f32) -> Self {
        Self::new(at, Edit::Scale(factor))
    }

    /// The same at some positions only.
    #[must_use]
    pub fn at_positions(self, positions: &[usize]) -> Self {
        Self {
            positions: Some(positions.to_vec()),
            ..self
        }
    }

    /// The same in some heads only.
    #[must_use]
    pub fn in_heads(self, heads: &[usize]) -> Self {
        Self {
            heads: Some(heads.to_vec()),
            ..self
        }
    }

    /// Whether this fits a value of shape `[batch, pos, width]` in `heads` heads (if it has any),
    /// positions counted from `offset`.
    pub(crate) fn check(
        &self,
        [batch, pos, width]: [usize; 3],
        heads: Option<usize>,
        offset: usize,
    ) -> Result<(), ModelError> {
        let wrong = |problem: String| {
            Err(ModelError::Intervention {
                point: self.at.to_string(),
                problem,
            })
        };
        if let Edit::Set(value) | Edit::Add(value) = &self.edit {
            let [b, p, w] = value.dims();
            if (b != 1 && b != batch) || (p != 1 && p != pos) || w != width {
                let found = value.dims();
                return wrong(format!(
                    "found a tensor {found:?}, expected {:?} (or 1 in place of the first two)",
                    [batch, pos, width]
                ));
            }
        }
        if let Some(chosen) = &self.heads {
            let Some(heads) = heads else {
                return wrong("found heads to choose, but the value there has none".into());
            };
            if let Some(head) = chosen.iter().find(|h| **h >= heads) {
                return wrong(format!("found head {head}, heads are 0 to {}", heads - 1));
            }
        }
        if let Some(positions) = &self.positions
            && offset == 0
            && let Some(position) = positions.iter().find(|p| **p >= pos)
        {
            return wrong(format!(
                "found position {position}, positions are 0 to {}",
                pos - 1
            ));
        }
        Ok(())
    }

    /// The changed value.
    ///
    /// # Panics
    /// When a function changes the shape.
    fn apply(&self, value: Tensor<3>, heads: Option<usize>, offset: usize) -> Tensor<3> {
        let [batch, pos, width] = value.dims();
        let like = |t: &Tensor<3>| match value.is_autodiff() {
            true => t.clone().autodiff(),
            false => t.clone(),
        };
        let changed = match &self.edit {
            Edit::Function(function) => function(value.clone()),
            Edit::Set(new) => like(new).expand([batch, pos, width]),
            Edit::Add(more) => value.clone() + like(more),
            Edit::Scale(factor) => value.clone() * *factor,
            Edit::Zero => value.zeros_like(),
        };
        assert_eq!(
            changed.dims(),
            [batch, pos, width],
            "an intervention at {} keeps the shape",
            self.at
        );
        if self.positions.is_none() && self.heads.is_none() {
            return changed;
        }
        let here = |chosen: &Option<Vec<usize>>, n: usize, each: usize, from: usize| -> Vec<bool> {
            (0..n)
                .map(|i| {
                    chosen
                        .as_ref()
                        .is_none_or(|c| c.contains(&(from + i / each)))
                })
                .collect()
        };
        let rows = here(&self.positions, pos, 1, offset);
        let columns = here(&self.heads, width, width / heads.unwrap_or(1), 0);
        let mask: Vec<bool> = rows
            .iter()
            .flat_map(|r| columns.iter().map(move |c| *r && *c))
            .collect();
        let mask = TensorData::new(mask, [1, pos, width]);
        let mask = Tensor::<3, Bool>::from_data(mask, &value.device());
        value.mask_where(mask.expand([batch, pos, width]), changed)
    }
}

/// A pass's reads and changes: it is over when nothing asked for is still to come.
pub(crate) struct Hooks<'a> {
    run: &'a HookedRun<'a>,
    last: Option<HookPoint>,
    shape: [usize; 2],
    /// Positions before the first of this pass.
    offset: usize,
    differentiate: &'a [HookPoint],
    pub captured: BTreeMap<HookPoint, Tensor<3>>,
    /// Zeros added at the points to differentiate at: their gradients are the values' gradients.
    pub leaves: BTreeMap<HookPoint, Tensor<3>>,
}

impl<'a> Hooks<'a> {
    pub fn new(
        run: &'a HookedRun<'a>,
        shape: [usize; 2],
        offset: usize,
        differentiate: &'a [HookPoint],
    ) -> Self {
        let last = run.capture.iter().max().copied();
        Self {
            run,
            last: match run.logits {
                true => None,
                false => Some(last.unwrap_or(HookPoint::Embed)),
            },
            shape,
            offset,
            differentiate,
            captured: BTreeMap::new(),
            leaves: BTreeMap::new(),
        }
    }

    /// Whether anybody reads or changes the value there.
    pub fn wants(&self, at: HookPoint) -> bool {
        self.run.capture.contains(&at) || self.differentiate.contains(&at) || self.changes(at)
    }

    /// Whether an intervention changes the value there.
    pub fn changes(&self, at: HookPoint) -> bool {
        self.run.interventions.iter().any(|i| i.at == at)
    }

    /// How gradients pass.
    pub fn rules(&self) -> BackwardRules {
        self.run.rules
    }

    /// Whether the value there is differentiated at.
    pub fn differentiates(&self, at: HookPoint) -> bool {
        self.differentiate.contains(&at)
    }

    /// From here on, values are those of the last position.
    pub fn keep_last_position(&mut self) {
        self.offset += self.shape[1] - 1;
        self.shape[1] = 1;
    }

    /// Passes a value through a hook point, `[batch * pos, width]` in and out, `heads` heads side
    /// by side; `None` once everything asked for has been captured.
    pub fn visit(
        &mut self,
        at: HookPoint,
        heads: Option<usize>,
        value: Tensor<2>,
    ) -> Option<Tensor<2>> {
        let value = match self.wants(at) {
            true => self.change(at, heads, value),
            false => value,
        };
        match self.last.is_some_and(|last| last <= at) {
            true => None,
            false => Some(value),
        }
    }

    fn change(&mut self, at: HookPoint, heads: Option<usize>, value: Tensor<2>) -> Tensor<2> {
        let [rows, width] = value.dims();
        let mut value = value.reshape([self.shape[0], self.shape[1], width]);
        for intervention in self.run.interventions.iter().filter(|i| i.at == at) {
            value = intervention.apply(value, heads, self.offset);
        }
        if self.differentiate.contains(&at) {
            let leaf = value.clone().inner().zeros_like().autodiff().require_grad();
            self.leaves.insert(at, leaf.clone());
            value = value + leaf;
        }
        if self.run.capture.contains(&at) {
            self.captured.insert(at, value.clone());
        }
        value.reshape([rows, width])
    }
}
