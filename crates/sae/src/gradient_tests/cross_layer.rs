//! Gradients of cross-layer transcoders: against central differences of the same loss written anew
//! in f64, and against the transcoder with dense matrices that does the same. Layers, widths and
//! latents all have other numbers, so that nothing can be taken for the other.

use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_coder::{AnyCoder, Coder, SparseCoder, Weights};

use super::{Values, World, close, dot, gradient, scalar, variance};
use crate::batch::Batch;
use crate::step::loss_and_gradients;

const LAYERS: usize = 3;
const D_IN: usize = 4;
const D_OUT: usize = 5;
const F: usize = 7;
const N: usize = 9;
const K: usize = 2;
/// Dead latents of each layer.
const DEAD: [&[i32]; LAYERS] = [&[1, 4, 6], &[], &[0, 2]];

fn world(architecture: &str, more: &str) -> World {
    let text = format!(
        "hook_points = ['blocks.0.hook_resid_mid', 'blocks.1.hook_resid_mid', 'blocks.3.hook_resid_mid']
         hook_points_out = ['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out', 'blocks.3.hook_mlp_out']
         coder.architecture = '{architecture}'
         coder.k = {K}
         coder.d_sae = {F}
         {more}"
    );
    let sizes = [LAYERS * D_IN, LAYERS * D_OUT, LAYERS * F];
    World::new(&text, D_IN, sizes, N, 23)
}

impl World {
    /// Pre-activations of a layer, row by row.
    fn layer_pre(&self, w: &Values, layer: usize) -> Vec<Vec<f64>> {
        let (rows, bias) = (&w[&of("w_enc", layer)], &w[&of("b_enc", layer)]);
        let row = |x: &[f64]| -> Vec<f64> {
            let x = &x[layer * D_IN..][..D_IN];
            (0..F)
                .map(|i| dot(&rows[i * D_IN..][..D_IN], x) + bias[i])
                .collect()
        };
        self.x.chunks(LAYERS * D_IN).map(row).collect()
    }

    /// What latent i of `from` writes at the hook point of `to`.
    fn row(w: &Values, from: usize, to: usize, i: usize) -> &[f64] {
        let width = (LAYERS - from) * D_OUT;
        &w[&of("w_dec", from)][i * width + (to - from) * D_OUT..][..D_OUT]
    }

    /// What is missing of y at each layer, `[N][LAYERS][D_OUT]`.
    fn errors(&self, w: &Values, codes: &[Vec<Vec<f64>>]) -> Vec<Vec<Vec<f64>>> {
        let of_token = |n: usize| {
            let at = |to: usize| {
                let y = &self.y[n * LAYERS * D_OUT + to * D_OUT..][..D_OUT];
                let mut left: Vec<f64> = y.to_vec();
                for (j, left) in left.iter_mut().enumerate() {
                    *left -= w["b_dec"][to * D_OUT + j];
                    for (from, codes) in codes.iter().enumerate().take(to + 1) {
                        for (i, z) in codes[n].iter().enumerate() {
                            *left -= z * Self::row(w, from, to, i)[j];
                        }
                    }
                }
                left
            };
            (0..LAYERS).map(at).collect()
        };
        (0..N).map(of_token).collect()
    }

    fn layers_mse(&self, w: &Values, codes: &[Vec<Vec<f64>>]) -> f64 {
        let errors = self.errors(w, codes);
        let all = errors.iter().flatten().flatten();
        all.map(|e| e * e).sum::<f64>() / N as f64
    }

    fn layers_variance(&self) -> f64 {
        let rows = self.y.chunks(LAYERS * D_OUT).map(<[f64]>::to_vec);
        variance(&rows.collect::<Vec<_>>())
    }

    /// The norm of all that a latent writes.
    fn norm(w: &Values, layer: usize, i: usize) -> f64 {
        let rows = (layer..LAYERS).map(|to| Self::row(w, layer, to, i));
        rows.map(|row| dot(row, row)).sum::<f64>().sqrt()
    }
}

fn of(weight: &str, layer: usize) -> String {
    format!("{weight}.{layer}")
}

/// The `k` largest of each row, of those that `may` be.
fn largest(pre: &[Vec<f64>], k: usize, may: impl Fn(usize) -> bool) -> Vec<Vec<f64>> {
    let row = |row: &Vec<f64>| {
        let mut order: Vec<usize> = (0..F).filter(|i| may(*i)).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let mut out = vec![0.0; F];
        for i in order.iter().take(k) {
            out[*i] = row[*i];
        }
        out
    };
    pre.iter().map(row).collect()
}

fn relu(rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let row = |row: Vec<f64>| row.iter().map(|p| p.max(0.0)).collect();
    rows.into_iter().map(row).collect()
}

fn dead() -> Vec<Option<Tensor<1, Int>>> {
    let of = |list: &[i32]| {
        let data = TensorData::new(list.to_vec(), [list.len()]);
        (!list.is_empty()).then(|| Tensor::from_data(data, &Device::flex()))
    };
    DEAD.map(of).into()
}

/// What AuxK of two latents makes of a layer's dead ones. What ReLU adds to the chosen is a
/// constant to the gradient.
fn aux_codes(world: &World, w: &Values, layer: usize) -> Vec<Vec<f64>> {
    let among = |i: usize| DEAD[layer].contains(&(i as i32));
    let chosen = |w: &Values| largest(&world.layer_pre(w, layer), 2, among);
    let added = chosen(&world.weights);
    let rows = chosen(w).into_iter().zip(&added);
    let row = |(row, start): (Vec<f64>, &Vec<f64>)| {
        let both = row.into_iter().zip(start);
        both.map(|(p, start)| p - start.min(0.0)).collect()
    };
    rows.map(row).collect()
}

/// The squared error of what `codes` of a layer write, against `rows`, mean over the batch.
fn aux_miss(w: &Values, layer: usize, codes: &[Vec<f64>], rows: &[Vec<f64>]) -> f64 {
    let miss = |(row, codes): (&Vec<f64>, &Vec<f64>)| -> f64 {
        let guess = |to: usize, j: usize| -> f64 {
            (0..F)
                .map(|i| codes[i] * World::row(w, layer, to, i)[j])
                .sum()
        };
        let places = (layer..LAYERS).flat_map(|to| (0..D_OUT).map(move |j| (to, j)));
        let errors = places
            .zip(row)
            .map(|((to, j), r)| (guess(to, j) - r).powi(2));
        errors.sum()
    };
    rows.iter().zip(codes).map(miss).sum::<f64>() / N as f64
}

#[test]
fn topk_layer_by_layer_with_and_without_dead_latents() {
    let world = world(
        "topk",
        "training.aux_k = 2\ntraining.aux_k_coefficient = 0.4",
    );
    let codes = |w: &Values| -> Vec<Vec<Vec<f64>>> {
        let layer = |l| relu(largest(&world.layer_pre(w, l), K, |_| true));
        (0..LAYERS).map(layer).collect()
    };
    let fvu = |w: &Values| world.layers_mse(w, &codes(w)) / world.layers_variance();
    world.check(&world.step(&[]), &[], fvu);
    // AuxK passes no gradient to the residual that living latents leave.
    let left = world.errors(&world.weights, &codes(&world.weights));
    world.check(&world.step(&dead()), &[], |w| {
        let aux = (0..LAYERS).filter(|l| !DEAD[*l].is_empty()).map(|layer| {
            let guesses = aux_codes(&world, w, layer);
            let rows: Vec<Vec<f64>> = left.iter().map(|at| at[layer..].concat()).collect();
            aux_miss(w, layer, &guesses, &rows) / variance(&rows)
        });
        fvu(w) + 0.4 * aux.sum::<f64>() / LAYERS as f64
    });
}

#[test]
fn relu_with_both_penalties_on_the_norm_of_all_that_a_latent_writes() {
    for (penalty, scale) in [("l1", 1.0), ("tanh", 1.7)] {
        let world = world(
            "standard",
            &format!(
                "training.l1_coefficient = 0.3
                 training.sparsity_penalty = '{penalty}'
                 training.tanh_scale = {scale}"
            ),
        );
        world.check(&world.step(&[]), &[], |w| {
            let layer = |l| relu(world.layer_pre(w, l));
            let codes: Vec<Vec<Vec<f64>>> = (0..LAYERS).map(layer).collect();
            let mut sum = 0.0;
            for (l, codes) in codes.iter().enumerate() {
                for i in 0..F {
                    let norm = World::norm(w, l, i);
                    let each = codes.iter().map(|row| scale * norm * row[i]);
                    sum += match penalty {
                        "l1" => each.sum::<f64>(),
                        _ => each.map(f64::tanh).sum::<f64>(),
                    };
                }
            }
            world.layers_mse(w, &codes) + 0.3 * sum / N as f64
        });
    }
}

#[test]
fn aux_k_of_coders_with_a_penalty_is_the_mean_over_layers() {
    const WEIGHT: f64 = 0.4;
    let recipe = format!("training.aux_k = 2\ntraining.aux_k_coefficient = {WEIGHT}");
    let world = world("standard", &recipe);
    let (with, without) = (world.step(&dead()), world.step(&[]));
    let codes = |layer| relu(world.layer_pre(&world.weights, layer));
    let codes: Vec<Vec<Vec<f64>>> = (0..LAYERS).map(codes).collect();
    // AuxK passes no gradient to the residual that living latents leave.
    let left = world.errors(&world.weights, &codes);
    let aux = |w: &Values| -> f64 {
        let layers = (0..LAYERS).filter(|l| !DEAD[*l].is_empty());
        let sum = layers.map(|layer| {
            let guesses = aux_codes(&world, w, layer);
            let rows: Vec<Vec<f64>> = left.iter().map(|at| at[layer..].concat()).collect();
            aux_miss(w, layer, &guesses, &rows) / variance(&rows)
        });
        sum.sum::<f64>() / LAYERS as f64
    };
    let (found, expected) = (
        scalar(&with.terms.aux.clone().unwrap()),
        aux(&world.weights),
    );
    assert!(
        (found - expected).abs() < 1e-4 * expected,
        "{found}, {expected}"
    );
    let weight = WEIGHT * world.layers_variance();
    let added = scalar(&with.terms.total) - scalar(&without.terms.total);
    assert!(
        (added - weight * expected).abs() < 1e-3 * weight * expected,
        "{added}"
    );
    for name in ["w_enc", "b_enc", "w_dec"] {
        for layer in (0..LAYERS).filter(|l| !DEAD[*l].is_empty()) {
            let name = of(name, layer);
            let both = gradient(&with, &name)
                .into_iter()
                .zip(gradient(&without, &name));
            let added: Vec<f64> = both.map(|(with, without)| with - without).collect();
            let expected = world.differences(&name, |w| weight * aux(w));
            close(&name, &added, &expected);
        }
    }
}

/// A transcoder that reads all hook points with rows that are 0 outside a latent's own, and writes
/// with rows that are 0 before it.
#[test]
fn relu_and_jumprelu_have_the_gradients_of_the_dense_transcoder_that_they_are() {
    let jumps = "coder.jumprelu.bandwidth = 0.8\ncoder.jumprelu.l0_coefficient = 0.2\ncoder.jumprelu.pre_act_coefficient = 0.6\n";
    for (architecture, more) in [
        ("standard", "training.l1_coefficient = 0.3".to_owned()),
        (
            "jumprelu",
            format!("{jumps}coder.jumprelu.penalty = 'tanh'"),
        ),
        (
            "jumprelu",
            format!("{jumps}coder.jumprelu.ste_to_input = true"),
        ),
    ] {
        // AuxK is of each layer by itself, so that of one dense layer is another.
        let world = world(architecture, &format!("{more}\ntraining.revival = 'none'"));
        let coder = world.coder();
        let layers = coder.layers();
        let encoders = layers.iter().enumerate().map(|(l, layer)| {
            let zeros = |n| Tensor::<2>::zeros([F, n * D_IN], &Device::flex());
            match l {
                0 => Tensor::cat(vec![layer.w_enc(), zeros(LAYERS - 1)], 1),
                _ if l == LAYERS - 1 => Tensor::cat(vec![zeros(l), layer.w_enc()], 1),
                _ => Tensor::cat(vec![zeros(l), layer.w_enc(), zeros(LAYERS - 1 - l)], 1),
            }
        });
        let mut weights = Weights::new([
            ("w_enc", Tensor::cat(encoders.collect(), 0).into()),
            ("b_enc", coder.latent_vector("b_enc").unwrap().into()),
            ("w_dec", coder.w_dec().into()),
            ("b_dec", coder.b_dec().into()),
        ]);
        if let Some(threshold) = coder.latent_vector("threshold") {
            weights = weights.with("threshold", threshold);
        }
        let dense = AnyCoder::from(SparseCoder {
            architecture: coder.architecture(),
            apply_b_dec_to_input: false,
            weights,
        });
        let numbered = DEAD.iter().enumerate();
        let all = numbered.flat_map(|(l, list)| list.iter().map(move |i| (l * F) as i32 + i));
        let all: Vec<i32> = all.collect();
        let all = Tensor::from_data(TensorData::new(all.clone(), [all.len()]), &Device::flex());
        let whole = Batch {
            widths: vec![LAYERS * D_OUT],
            ..world.batch()
        };
        let all = [Some(all)];
        let context = world.recipe.context(1 << 40, &all, 1.0);
        let expected = loss_and_gradients(&dense, &whole, &context);
        let found = world.step(&dead());
        let [loss, expected_loss] = [&found, &expected].map(|o| scalar(&o.terms.total));
        assert!((loss - expected_loss).abs() < 1e-5 * expected_loss);
        for (name, weight, d) in [
            ("w_enc", "w_enc", D_IN),
            ("b_enc", "b_enc", 0),
            ("w_dec", "w_dec", D_OUT),
            ("threshold", "threshold", 0),
        ] {
            if name == "threshold" && architecture != "jumprelu" {
                continue;
            }
            let all = gradient(&expected, weight);
            for l in 0..LAYERS {
                let (first, columns) = match name {
                    "w_enc" => (l * d, D_IN),
                    "w_dec" => (l * d, (LAYERS - l) * D_OUT),
                    _ => (0, 1),
                };
                let width = all.len() / (LAYERS * F);
                let rows = all[l * F * width..(l + 1) * F * width].chunks(width);
                let expected: Vec<f64> = rows
                    .flat_map(|row| row[first..first + columns].to_vec())
                    .collect();
                close(&of(name, l), &gradient(&found, &of(name, l)), &expected);
            }
        }
        close(
            "b_dec",
            &gradient(&found, "b_dec"),
            &gradient(&expected, "b_dec"),
        );
    }
}
