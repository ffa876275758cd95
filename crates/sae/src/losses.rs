//! The terms of the losses, each a function of tensors to a scalar tensor `[1]`.
//!
//! TopK and BatchTopK minimize `fvu + aux_k_coefficient * aux`, both free of the activations' scale
//! (Gao et al. 2024); standard coders minimize `mse + l1_coefficient * l1`, as SAELens does,
//! and AuxK times the variance.

use burn::tensor::{Int, Tensor};
use lapidary_coder::{Coder, SparseCoder};
use lapidary_kernels::{SparseCodes, decode_sparse, encode_topk};

/// Squared error of a token, summed over dimensions, mean over tokens.
pub fn mse(x: Tensor<2>, x_hat: Tensor<2>) -> Tensor<1> {
    let n = x.dims()[0].max(1);
    (x_hat - x).square().sum() / n as f64
}

/// Squared distance of a token from the batch's mean, summed over dimensions, mean over tokens:
/// what [`mse`] is divided by to give the fraction of variance unexplained.
pub fn batch_variance(x: Tensor<2>) -> Tensor<1> {
    let mean = x.clone().mean_dim(0); // [1, d]
    let n = x.dims()[0].max(1);
    // A constant batch has no variance to explain; a tiny floor keeps its loss finite.
    ((x - mean).square().sum() / n as f64).clamp_min(1e-12)
}

/// The norm of each decoder row, `[d_sae, 1]`; where `parts` of them belong to several hook points,
/// the sum of the norms there (Lindsey et al. 2024, "Sparse crosscoders for cross-layer features
/// and model diffing").
pub fn decoder_norms(w_dec: Tensor<2>, parts: &[usize]) -> Tensor<2> {
    let norm = |w: Tensor<2>| w.square().sum_dim(1).sqrt();
    let mut start = 0;
    let norms = parts.iter().map(|width| {
        start += width;
        norm(w_dec.clone().narrow(1, start - width, *width))
    });
    match parts.len() {
        0 | 1 => norm(w_dec),
        _ => norms.reduce(|a, b| a + b).expect("there are parts"),
    }
}

/// Sum over latents of activation times decoder norm, mean over tokens; `parts` as in
/// [`decoder_norms`].
pub fn l1(latents: Tensor<2>, w_dec: Tensor<2>, parts: &[usize]) -> Tensor<1> {
    let n = latents.dims()[0].max(1);
    let norms = decoder_norms(w_dec, parts); // [d_sae, 1]
    latents.matmul(norms).sum() / n as f64
}

/// Sum over latents of tanh(`scale` · activation · decoder norm), mean over tokens; `parts` as in
/// [`decoder_norms`].
pub fn tanh(latents: Tensor<2>, w_dec: Tensor<2>, parts: &[usize], scale: f64) -> Tensor<1> {
    let n = latents.dims()[0].max(1);
    let norms = decoder_norms(w_dec, parts).transpose(); // [1, d_sae]
    (latents * norms * scale).tanh().sum() / n as f64
}

/// AuxK: the `k_aux` largest pre-activations among the `dead` latents, after ReLU, reconstruct the
/// `residual` `[n, d]` that the living left. Returns the fraction of the residual's variance that
/// they leave, times min(dead / k_aux, 1).
///
/// `x` `[n, d]` is centred. The gradient passes the ReLU as if it were not there (it goes straight
/// through), so it reaches the encoder rows of dead latents even where their pre-activations are
/// negative. Their thresholds, if they have any, get the gradient of the pre-activations with the
/// other sign. `residual` must carry no gradient.
pub fn aux_k(
    coder: &SparseCoder,
    x: Tensor<2>,
    residual: Tensor<2>,
    dead: Tensor<1, Int>,
    k_aux: usize,
) -> Tensor<1> {
    let n_dead = dead.dims()[0];
    let k = k_aux.min(n_dead);
    let scale = (n_dead as f64 / k_aux as f64).min(1.0);
    let codes: SparseCodes = encode_topk(
        x,
        coder.w_enc().select(0, dead.clone()), // [n_dead, d]
        encoder_bias(coder).select(0, dead.clone()), // [n_dead]
        k,
        coder.weights.encoder_state(),
    );
    let mut values = codes.values;
    if let Some(theta) = coder.threshold() {
        // A lower threshold brings a latent back as a larger pre-activation does.
        let shape = codes.indices.dims();
        let chosen = codes.indices.clone().reshape([shape[0] * shape[1]]);
        let theta = theta.select(0, dead.clone()).select(0, chosen);
        let theta = theta.reshape(shape);
        values = values - (theta.clone() - theta.detach());
    }
    let codes = SparseCodes {
        values: straight_through(values),
        indices: codes.indices,
    };
    let guess = decode_sparse(codes, coder.w_dec().select(0, dead)); // [n, d]
    let variance = batch_variance(residual.clone());
    mse(residual, guess) / variance * scale
}

/// The bias of the pre-activations, `[d_sae]`: of a gated coder, those of its gates.
fn encoder_bias(coder: &SparseCoder) -> Tensor<1> {
    let bias = ["b_enc", "b_gate"].into_iter();
    let mut found = bias.filter_map(|name| coder.weights.vector(name));
    found.next().expect("every encoder has a bias").clone()
}

/// ReLU whose derivative is 1 everywhere: a latent that is negative where it is needed learns to be
/// positive there, but a negative value reconstructs nothing.
fn straight_through(values: Tensor<2>) -> Tensor<2> {
    let negative = values.clone().clamp_max(0.0).detach();
    values - negative
}

/// Ghost gradients (Anthropic, January 2024 update, "Ghost grads: an improvement on resampling"):
/// the `dead` latents, with the exponential in place of their activation function, make a guess of
/// the `residual` `[n, d_out]` that the living left, scaled to half its norm. Returns the guess's
/// squared error, mean over tokens; the scale is a constant. `x` `[n, d_in]` is centred; `residual`
/// must carry no gradient.
pub fn ghost(
    coder: &SparseCoder,
    x: Tensor<2>,
    residual: Tensor<2>,
    dead: Tensor<1, Int>,
) -> Tensor<1> {
    let rows = coder.w_enc().select(0, dead.clone()); // [n_dead, d_in]
    let bias = coder.b_enc().select(0, dead.clone()).unsqueeze(); // [1, n_dead]
    let latents = (x.matmul(rows.transpose()) + bias).exp();
    let guess = latents.matmul(coder.w_dec().select(0, dead)); // [n, d_out]
    let norm = |t: Tensor<2>| t.square().sum_dim(1).sqrt(); // [n, 1]
    let scale = norm(residual.clone()) / (norm(guess.clone().detach()) * 2.0 + 1e-6);
    mse(residual, guess * scale)
}

#[cfg(test)]
mod tests {
    //! Gradients against central differences. Every term is at most quadratic in any single weight
    //! (the L1 norm apart), so the differences are exact up to rounding: f32 losses of order 1 and
    //! a step of 1/64 leave errors under 1e-3 of the largest gradient. Selections must not flip
    //! under the step, so inputs are drawn until every choice has a margin.

    use burn::tensor::{Device, TensorData};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::architectures::standard;
    use lapidary_coder::{Architecture, Weights};

    const D: usize = 5;
    const F: usize = 12;
    const N: usize = 6;
    const K: usize = 3;
    const STEP: f32 = 1.0 / 64.0;
    const MARGIN: f64 = 0.12;
    const DEAD: [i32; 5] = [1, 4, 7, 8, 11];

    struct Case {
        x: Vec<f32>,
        weights: [Vec<f32>; 4],
    }

    const SHAPES: [(&str, usize); 4] = [
        ("w_enc", F * D),
        ("b_enc", F),
        ("w_dec", F * D),
        ("b_dec", D),
    ];

    impl Case {
        fn draw(seed: u64) -> Self {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut numbers = |n: usize, s: f32| -> Vec<f32> {
                (0..n)
                    .map(|_| (rng.random::<f32>() * 2.0 - 1.0) * s)
                    .collect()
            };
            Self {
                x: numbers(N * D, 2.0),
                weights: [
                    numbers(F * D, 1.0),
                    numbers(F, 0.5),
                    numbers(F * D, 0.6),
                    numbers(D, 0.5),
                ],
            }
        }

        /// Pre-activations, row by row.
        fn pre(&self) -> Vec<Vec<f64>> {
            let [w_enc, b_enc, _, b_dec] = &self.weights;
            self.x
                .chunks(D)
                .map(|x| {
                    (0..F)
                        .map(|i| {
                            let w = &w_enc[i * D..(i + 1) * D];
                            f64::from(b_enc[i])
                                + (0..D)
                                    .map(|j| f64::from(w[j]) * f64::from(x[j] - b_dec[j]))
                                    .sum::<f64>()
                        })
                        .collect()
                })
                .collect()
        }

        fn coder(&self, architecture: Architecture) -> SparseCoder {
            let device = Device::flex();
            let [w_enc, b_enc, w_dec, b_dec] = self.weights.clone();
            let matrix = |v| Tensor::<2>::from_data(TensorData::new(v, [F, D]), &device).into();
            let vector = |v, n| Tensor::<1>::from_data(TensorData::new(v, [n]), &device).into();
            SparseCoder {
                architecture,
                apply_b_dec_to_input: true,
                weights: Weights::new([
                    ("w_enc", matrix(w_enc)),
                    ("b_enc", vector(b_enc, F)),
                    ("w_dec", matrix(w_dec)),
                    ("b_dec", vector(b_dec, D)),
                ]),
            }
        }

        fn x(&self) -> Tensor<2> {
            Tensor::from_data(TensorData::new(self.x.clone(), [N, D]), &Device::flex()).autodiff()
        }
    }

    /// The first case whose pre-activations leave a margin.
    fn with_margin(good: impl Fn(&[Vec<f64>]) -> bool) -> Case {
        (0..100_000)
            .map(Case::draw)
            .find(|c| good(&c.pre()))
            .expect("some draw has the margin")
    }

    fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
        let mut v: Vec<f64> = values.into_iter().collect();
        v.sort_by(|a, b| b.total_cmp(a));
        v
    }

    fn value(t: Tensor<1>) -> f64 {
        f64::from(t.inner().into_scalar::<f32>())
    }

    /// Compares every derivative of `loss` with central differences; `touched` says which weights
    /// must have any.
    fn check(
        case: &mut Case,
        architecture: Architecture,
        touched: [bool; 4],
        loss: impl Fn(&SparseCoder, Tensor<2>) -> Tensor<1>,
    ) {
        check_against(case, architecture, touched, &loss, &loss);
    }

    /// Compares every derivative of `loss` with central differences of `differenced`.
    fn check_against(
        case: &mut Case,
        architecture: Architecture,
        touched: [bool; 4],
        loss: impl Fn(&SparseCoder, Tensor<2>) -> Tensor<1>,
        differenced: impl Fn(&SparseCoder, Tensor<2>) -> Tensor<1>,
    ) {
        let coder = case.coder(architecture).tracked();
        let gradients = loss(&coder, case.x()).backward();
        let found: [Vec<f32>; 4] = SHAPES.map(|(name, _)| {
            let matrix = coder.weights.matrix(name);
            let found = match matrix {
                Some(t) => t.grad(&gradients).map(Tensor::into_data),
                None => coder.vector(name).grad(&gradients).map(Tensor::into_data),
            };
            found.map_or(vec![], |data| data.try_into_vec_as().unwrap())
        });
        for (p, (name, size)) in SHAPES.into_iter().enumerate() {
            let found = if found[p].is_empty() {
                vec![0.0; size]
            } else {
                found[p].clone()
            };
            let mut expected = vec![0.0f64; size];
            for (i, e) in expected.iter_mut().enumerate() {
                let start = case.weights[p][i];
                let mut at = |v: f32| {
                    case.weights[p][i] = v;
                    value(differenced(&case.coder(architecture), case.x().inner()))
                };
                *e = (at(start + STEP) - at(start - STEP)) / (2.0 * f64::from(STEP));
                case.weights[p][i] = start;
            }
            let largest = expected.iter().fold(0.0f64, |m, e| m.max(e.abs()));
            assert_eq!(
                largest > 1e-3,
                touched[p],
                "{name}: largest derivative {largest}"
            );
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (f64::from(*f) - e).abs() <= 1e-3 * largest.max(0.1),
                    "{name}[{i}]: gradient {f}, differences {e}"
                );
            }
        }
    }

    /// Latents and reconstruction of `x`, centred.
    fn forward(coder: &SparseCoder, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let latents = standard::latents(coder, x);
        let decoded = latents.clone().matmul(coder.w_dec());
        (latents, decoded + coder.b_dec().unsqueeze())
    }

    fn reconstruction(coder: &SparseCoder, x: Tensor<2>) -> Tensor<1> {
        let reconstruction = coder.decode(coder.encode(x.clone()));
        mse(x.clone(), reconstruction) / batch_variance(x)
    }

    #[test]
    fn topk_reconstruction_has_the_right_gradient() {
        let mut case = with_margin(|pre| {
            pre.iter().all(|row| {
                let s = sorted(row.iter().copied());
                s[K - 1] - s[K] > MARGIN && s[..K].iter().all(|v| v.abs() > MARGIN)
            })
        });
        check(
            &mut case,
            Architecture::TopK { k: K },
            [true; 4],
            reconstruction,
        );
    }

    #[test]
    fn batchtopk_reconstruction_has_the_right_gradient() {
        let mut case = with_margin(|pre| {
            let s = sorted(pre.iter().flatten().copied());
            s[N * K - 1] - s[N * K] > MARGIN && s[N * K - 1] > MARGIN
        });
        check(
            &mut case,
            Architecture::BatchTopK { k: K },
            [true; 4],
            reconstruction,
        );
    }

    fn away_from_zero(pre: &[Vec<f64>]) -> bool {
        pre.iter().flatten().all(|v| v.abs() > 0.07)
    }

    #[test]
    fn standard_reconstruction_has_the_right_gradient() {
        let mut case = with_margin(away_from_zero);
        let reconstruction = |coder: &SparseCoder, x: Tensor<2>| {
            let (_, reconstruction) = forward(coder, coder.centre(x.clone()));
            mse(x.clone(), reconstruction) / batch_variance(x)
        };
        check(&mut case, Architecture::Standard, [true; 4], reconstruction);
    }

    #[test]
    fn l1_weighs_latents_by_decoder_norm_and_has_the_right_gradient() {
        let mut case = with_margin(away_from_zero);
        let penalty = |coder: &SparseCoder, x: Tensor<2>| {
            let (latents, _) = forward(coder, coder.centre(x));
            l1(latents, coder.w_dec(), &[D])
        };
        let expected: f64 = case
            .pre()
            .iter()
            .flatten()
            .enumerate()
            .map(|(i, p)| {
                let row = &case.weights[2][(i % F) * D..(i % F + 1) * D];
                p.max(0.0) * row.iter().map(|w| f64::from(w * w)).sum::<f64>().sqrt()
            })
            .sum::<f64>()
            / N as f64;
        let found = value(penalty(
            &case.coder(Architecture::Standard),
            case.x().inner(),
        ));
        assert!((found - expected).abs() < 1e-4);
        check(&mut case, Architecture::Standard, [true; 4], penalty);
    }

    #[test]
    fn aux_k_reaches_the_encoder_and_decoder_rows_of_dead_latents() {
        let k_aux = 2;
        let mut case = with_margin(|pre| {
            pre.iter().all(|row| {
                let s = sorted(DEAD.iter().map(|i| row[*i as usize]));
                s[k_aux - 1] - s[k_aux] > MARGIN
            })
        });
        // A residual that does not depend on the weights, as in training, where it is detached.
        let residual = Case::draw(77).x;
        let device = Device::flex();
        let residual: Tensor<2> = Tensor::from_data(TensorData::new(residual, [N, D]), &device);
        let dead = || Tensor::<1, Int>::from_ints(DEAD, &device);
        let term = |coder: &SparseCoder, x: Tensor<2>| {
            aux_k(coder, coder.centre(x), residual.clone(), dead(), k_aux)
        };
        let raw = |coder: &SparseCoder, x: Tensor<2>| {
            encode_topk(
                coder.centre(x),
                coder.w_enc().select(0, dead()),
                coder.b_enc().select(0, dead()),
                k_aux,
                coder.weights.encoder_state(),
            )
        };
        // What the ReLU adds to each value is a constant to the gradient.
        let architecture = Architecture::TopK { k: K };
        let start = raw(&case.coder(architecture), case.x().inner()).values;
        let added = start.clone().clamp_min(0.0) - start.clone();
        let with_constants = |coder: &SparseCoder, x: Tensor<2>| {
            let mut codes = raw(coder, x);
            codes.values = codes.values + added.clone();
            let guess = decode_sparse(codes, coder.w_dec().select(0, dead()));
            mse(residual.clone(), guess) / batch_variance(residual.clone())
        };
        let found = value(term(&case.coder(architecture), case.x().inner()));
        let expected = value(with_constants(&case.coder(architecture), case.x().inner()));
        assert!(
            (found - expected).abs() < 1e-5 * expected,
            "{found}, {expected}"
        );
        check_against(&mut case, architecture, [true; 4], term, with_constants);

        let coder = case.coder(architecture).tracked();
        let gradients = term(&coder, case.x()).backward();
        let rows: Vec<f32> = coder
            .w_enc()
            .grad(&gradients)
            .unwrap()
            .try_into_vec_as()
            .unwrap();
        for (latent, row) in rows.chunks(D).enumerate() {
            if !DEAD.contains(&(latent as i32)) {
                assert!(row.iter().all(|g| *g == 0.0), "latent {latent} lives");
            }
        }
        // Some of the chosen pre-activations are negative, so the ReLU and the gradient past it
        // both matter here.
        let lowest: f32 = start.min().into_scalar();
        assert!(lowest < 0.0);
    }

    #[test]
    fn aux_k_shrinks_when_few_are_dead() {
        let case = Case::draw(3);
        let device = Device::flex();
        let coder = case.coder(Architecture::TopK { k: K });
        let dead = || Tensor::<1, Int>::from_ints([2, 5], &device);
        let x = || case.x().inner();
        let term = |k_aux| value(aux_k(&coder, coder.centre(x()), x(), dead(), k_aux));
        // Both take part either way; with k_aux 8 only a quarter of the places are filled.
        assert!((term(8) - term(2) / 4.0).abs() < 1e-6 * term(2));
    }
}
