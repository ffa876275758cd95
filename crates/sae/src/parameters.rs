//! Weights with their Adam moments, and the update of all of them by a batch's gradients.

use burn::tensor::{Tensor, TensorData};
use lapidary_kernels::{
    AdamStep, Moments, RowUpdate, SparseGradient, adam_step, sparse_adam_step, squared_norm,
};

use lapidary_coder::{AnyCoder, CoderError, Weight, WeightKey, host};

use crate::decoder_norm;
use crate::keys::Optimizer;

/// The weight whose rows are kept at norm 1 if the recipe wants it.
const DECODER: &str = "w_dec";

/// Whether a vector decides which latents are active, by values that are as small as the smallest
/// activations. With the whole learning rate it would jump over many of these, and more latents
/// would die (docs/results.md, "Target L0"). For other biases it makes no difference.
fn decides(name: &str) -> bool {
    matches!(name, "threshold" | "b_gate" | "b_mag")
}

/// The part of a step that such a vector makes: so many times its mean size, within these limits.
const STEP_OF_SIZE: f64 = 3.0;
const STEP_LIMITS: (f64, f64) = (0.1, 1.0);

/// The gradient of one weight.
#[allow(clippy::large_enum_variant)] // as with codes
pub(crate) enum Gradient {
    Matrix(Tensor<2>),
    /// Sparse by latent.
    Rows(SparseGradient),
    Vector(Tensor<1>),
}

/// A weight with its Adam moments. Empty only inside its methods, which need to own what they
/// change in place.
pub(crate) struct Parameter<const D: usize>(Option<(Tensor<D>, Moments<D>)>);

impl<const D: usize> Parameter<D> {
    pub(crate) fn new(value: Tensor<D>, moments: Moments<D>) -> Self {
        Self(Some((value, moments)))
    }

    fn fresh(value: Tensor<D>) -> Self {
        let moments = Moments {
            m: value.zeros_like(),
            v: value.zeros_like(),
        };
        Self::new(value, moments)
    }

    pub(crate) fn parts(&self) -> &(Tensor<D>, Moments<D>) {
        self.0.as_ref().expect("only empty inside its methods")
    }

    fn value(&self) -> Tensor<D> {
        self.parts().0.clone()
    }

    fn change(&mut self, f: impl FnOnce(Tensor<D>, Moments<D>) -> (Tensor<D>, Moments<D>)) {
        let (value, moments) = self.0.take().expect("only empty inside its methods");
        self.0 = Some(f(value, moments));
    }

    fn update(&mut self, grad: Tensor<D>, adam: &AdamStep, scale: f64) {
        let grad = if scale == 1.0 { grad } else { grad * scale };
        self.change(|value, moments| adam_step(value, grad, moments, adam));
    }

    /// Where the weight does not go by Adam: a step by the mean gradient.
    fn go(&mut self, optimizer: Optimizer, lr: f64) {
        if optimizer.moves::<D>() {
            self.change(|value, moments| {
                let step = optimizer.step(moments.m.clone(), lr);
                (value - step, moments)
            });
        }
    }

    /// Other values in some rows, or entries of a vector, one row of `values` each, with moments
    /// of 0.
    fn replace(&mut self, rows: &[u32], values: &[f32]) -> Result<(), CoderError> {
        let (value, moments) = self.parts();
        let width = values.len() / rows.len().max(1);
        let (shape, device) = (value.shape(), value.device());
        let put = |t: &Tensor<D>, from: Option<&[f32]>| -> Result<Tensor<D>, CoderError> {
            let mut all = host(t)?;
            for (i, row) in rows.iter().enumerate() {
                let place = &mut all[*row as usize * width..][..width];
                match from {
                    Some(values) => place.copy_from_slice(&values[i * width..][..width]),
                    None => place.fill(0.0),
                }
            }
            let data = TensorData::new(all, shape.clone());
            Ok(Tensor::from_data(data, &device))
        };
        let value = put(value, Some(values))?;
        let moments = Moments {
            m: put(&moments.m, None)?,
            v: put(&moments.v, None)?,
        };
        self.0 = Some((value, moments));
        Ok(())
    }

    fn map(&mut self, f: impl FnOnce(Tensor<D>) -> Tensor<D>) {
        self.change(|value, moments| (f(value), moments));
    }

    /// The number of values that are not finite, `[1]`: infinity and NaN alike turn `0 * x` into
    /// NaN, which is not itself.
    fn not_finite(&self) -> Tensor<1> {
        let (value, moments) = self.parts();
        let count = |t: &Tensor<D>| {
            let zero = t.clone() * 0.0;
            zero.equal_elem(0.0).bool_not().float().sum()
        };
        count(value) + count(&moments.m) + count(&moments.v)
    }
}

impl Parameter<2> {
    fn update_rows(&mut self, gradient: SparseGradient, how: &RowUpdate) {
        self.change(|value, moments| sparse_adam_step(value, gradient, moments, how));
    }
}

/// A parameter of either shape.
pub(crate) enum AnyParameter {
    Matrix(Parameter<2>),
    Vector(Parameter<1>),
}

/// The weights of a coder in training, by name.
pub(crate) struct Parameters(Vec<(WeightKey, AnyParameter)>);

impl FromIterator<(WeightKey, AnyParameter)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (WeightKey, AnyParameter)>>(parameters: I) -> Self {
        Self(parameters.into_iter().collect())
    }
}

impl Parameters {
    /// With moments of zeros.
    pub(crate) fn fresh(coder: &AnyCoder) -> Self {
        let parameters = coder.weights().into_iter().map(|(name, weight)| {
            let parameter = match weight {
                Weight::Matrix(t) => AnyParameter::Matrix(Parameter::fresh(t)),
                Weight::Vector(t) => AnyParameter::Vector(Parameter::fresh(t)),
            };
            (name, parameter)
        });
        parameters.collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WeightKey, &AnyParameter)> {
        self.0.iter().map(|(name, parameter)| (*name, parameter))
    }

    /// The weights as they stand.
    pub(crate) fn weights(&self) -> impl Iterator<Item = (WeightKey, Weight)> {
        self.iter().map(|(name, parameter)| match parameter {
            AnyParameter::Matrix(p) => (name, p.value().into()),
            AnyParameter::Vector(p) => (name, p.value().into()),
        })
    }

    /// How many values of weights and moments are not finite, `[1]`.
    pub(crate) fn not_finite(&self) -> Tensor<1> {
        let counts = self.0.iter().map(|(_, parameter)| match parameter {
            AnyParameter::Matrix(p) => p.not_finite(),
            AnyParameter::Vector(p) => p.not_finite(),
        });
        counts.reduce(|a, b| a + b).expect("a coder has weights")
    }

    /// Changes the vector of this name, that of every layer if there are several.
    pub(crate) fn map_vectors(&mut self, name: &str, f: impl Fn(Tensor<1>) -> Tensor<1>) {
        for (found, parameter) in &mut self.0 {
            if found.name == name
                && let AnyParameter::Vector(p) = parameter
            {
                p.map(&f);
            }
        }
    }

    /// Gives the latents `latents` other rows, or entries, of the weight of this name, and moments
    /// of 0.
    pub(crate) fn replace_rows(
        &mut self,
        name: &'static str,
        latents: &[u32],
        values: &[f32],
    ) -> Result<(), CoderError> {
        match self.named(name.into()) {
            AnyParameter::Matrix(p) => p.replace(latents, values),
            AnyParameter::Vector(p) => p.replace(latents, values),
        }
    }

    fn named(&mut self, name: WeightKey) -> &mut AnyParameter {
        let found = self.0.iter_mut().find(|(n, _)| *n == name);
        &mut found.expect("gradients have the names of weights").1
    }

    /// Takes from the decoder's gradient what lies along its rows, if it is dense; what is sparse
    /// loses it in the update.
    pub(crate) fn remove_parallel(&mut self, gradients: &mut [(WeightKey, Gradient)]) {
        for (name, gradient) in gradients {
            if let (true, Gradient::Matrix(grad)) = (name.name == DECODER, gradient)
                && let AnyParameter::Matrix(rows) = self.named(*name)
            {
                let along = grad.clone();
                rows.map(|rows| {
                    let (left, rows) = decoder_norm::remove_parallel(along, rows);
                    *grad = left;
                    rows
                });
            }
        }
    }

    /// The squared norm of all gradients, `[1]`; `unit`: of the decoder's what is left beside its
    /// rows.
    pub(crate) fn squares(&self, gradients: &[(WeightKey, Gradient)], unit: bool) -> Tensor<1> {
        let squares = gradients.iter().map(|(name, gradient)| match gradient {
            Gradient::Matrix(t) => t.clone().square().sum(),
            Gradient::Vector(t) => t.clone().square().sum(),
            Gradient::Rows(rows) => {
                let found = self.0.iter().find(|(n, _)| n == name);
                let Some((_, AnyParameter::Matrix(p))) = found else {
                    unreachable!("only matrices have rows");
                };
                squared_norm(&p.parts().0, rows, unit && name.name == DECODER)
            }
        });
        squares.reduce(|a, b| a + b).expect("a coder has weights")
    }

    /// A step by the gradients times `scale`; `unit`: decoder rows are scaled back to norm 1.
    pub(crate) fn update(
        &mut self,
        gradients: Vec<(WeightKey, Gradient)>,
        optimizer: Optimizer,
        step: &AdamStep,
        scale: f64,
        unit: bool,
    ) {
        let lr = f64::from(step.lr);
        for (name, gradient) in gradients {
            let unit_rows = unit && name.name == DECODER;
            match (self.named(name), gradient) {
                (AnyParameter::Matrix(p), Gradient::Matrix(grad)) => {
                    p.update(grad, &optimizer.adam::<2>(step), scale);
                    p.go(optimizer, lr);
                    if unit_rows {
                        p.map(decoder_norm::unit_rows);
                    }
                }
                (AnyParameter::Matrix(p), Gradient::Rows(rows)) => {
                    let how = RowUpdate {
                        adam: optimizer.adam::<2>(step),
                        scale: scale as f32,
                        unit_rows,
                    };
                    p.update_rows(rows, &how);
                    p.go(optimizer, lr);
                    if unit_rows && optimizer.moves::<2>() {
                        p.map(decoder_norm::unit_rows);
                    }
                }
                (AnyParameter::Vector(p), Gradient::Vector(grad)) => {
                    let before = p.value();
                    p.update(grad, &optimizer.adam::<1>(step), scale);
                    p.go(optimizer, lr);
                    if decides(name.name) {
                        let size = before.clone().abs().mean() * STEP_OF_SIZE;
                        let part = size.clamp(STEP_LIMITS.0, STEP_LIMITS.1);
                        p.map(|after| before.clone() + (after - before) * part);
                    }
                }
                _ => unreachable!("a gradient has the shape of its weight"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use lapidary_coder::{Architecture, SparseCoder, Weights};

    use super::*;

    /// A first step is as long as the learning rate, whatever the gradient.
    #[test]
    fn what_decides_on_activity_moves_in_proportion_to_its_size() {
        const LR: f32 = 0.01;
        let device = Device::flex();
        let vector = |v: f32| Tensor::<1>::full([4], v, &device);
        for optimizer in [Optimizer::Adam, Optimizer::Signum, Optimizer::Muon] {
            let weights = Weights::new([
                ("threshold", vector(0.1).into()),
                ("b_gate", vector(-2.0).into()),
                ("b_mag", vector(0.01).into()),
                ("b_enc", vector(0.01).into()),
                ("b_dec", vector(0.01).into()),
            ]);
            let coder = SparseCoder {
                architecture: Architecture::Standard,
                apply_b_dec_to_input: true,
                weights,
            };
            let mut parameters = Parameters::fresh(&coder.into());
            let names: Vec<WeightKey> = parameters.iter().map(|(name, _)| name).collect();
            let gradients = names
                .iter()
                .map(|name| (*name, Gradient::Vector(vector(3.0))));
            let adam = AdamStep {
                lr: LR,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-12,
                weight_decay: 0.0,
                step: 1,
            };
            parameters.update(gradients.collect(), optimizer, &adam, 1.0, false);
            assert_eq!(names.len(), 5);
            for (name, weight) in parameters.weights() {
                let Weight::Vector(moved) = weight else {
                    panic!("{name} is a matrix");
                };
                let (start, part) = match name.name {
                    "threshold" => (0.1, 0.3),
                    "b_gate" => (-2.0, 1.0),
                    "b_mag" => (0.01, 0.1),
                    _ => (0.01, 1.0),
                };
                let moved = start - host(&moved).unwrap()[0];
                let expected = LR * part;
                assert!(
                    (moved / expected - 1.0).abs() < 1e-3,
                    "{optimizer}, {name}: {moved}"
                );
            }
        }
    }
}
