//! Gradients of transcoders, skip connection and all, against central differences of the same loss
//! written anew in f64. Input and output have other widths, so that nothing can be taken for the
//! other.

use std::collections::BTreeMap;

use lapidary_coder::SKIP;

use super::{Values, World, dot, variance};

const D_IN: usize = 5;
const D_OUT: usize = 7;
const F: usize = 16;
const N: usize = 9;
const K: usize = 3;

fn world(architecture: &str, more: &str) -> World {
    let text = format!(
        "hook_point = 'blocks.0.ln2.hook_normalized'
         hook_point_out = 'blocks.0.hook_mlp_out'
         coder.architecture = '{architecture}'
         coder.k = {K}
         coder.d_sae = {F}
         {more}"
    );
    World::new(&text, D_IN, [D_IN, D_OUT, F], N, 11)
}

impl World {
    /// Pre-activations by the given bias, row by row.
    fn pre(&self, w: &Values, bias: &str) -> Vec<Vec<f64>> {
        let row = |x: &[f64]| -> Vec<f64> {
            (0..F)
                .map(|i| dot(&w["w_enc"][i * D_IN..][..D_IN], x) + w[bias][i])
                .collect()
        };
        self.x.chunks(D_IN).map(row).collect()
    }

    /// The squared error of a token with a decoder, mean over the batch.
    fn mse(&self, w: &Values, decoder: &Values, codes: &[Vec<f64>]) -> f64 {
        let rows = codes
            .iter()
            .zip(self.x.chunks(D_IN))
            .zip(self.y.chunks(D_OUT));
        let error = |((z, x), y): ((&Vec<f64>, &[f64]), &[f64])| -> f64 {
            (0..D_OUT)
                .map(|j| {
                    let decoded: f64 = (0..F).map(|i| z[i] * decoder["w_dec"][i * D_OUT + j]).sum();
                    let skipped = w.get(SKIP).map_or(0.0, |s| dot(&s[j * D_IN..][..D_IN], x));
                    (decoded + decoder["b_dec"][j] + skipped - y[j]).powi(2)
                })
                .sum()
        };
        rows.map(error).sum::<f64>() / N as f64
    }

    fn variance_of_y(&self) -> f64 {
        let rows: Vec<Vec<f64>> = self.y.chunks(D_OUT).map(<[f64]>::to_vec).collect();
        variance(&rows)
    }

    fn check_all(&self, loss: impl Fn(&Values) -> f64) {
        self.check(&self.step(&[]), &[], loss);
    }
}

/// The `k` largest of each row, if positive.
fn largest(pre: &[Vec<f64>], k: usize) -> Vec<Vec<f64>> {
    let row = |row: &Vec<f64>| {
        let mut order: Vec<usize> = (0..F).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let mut out = vec![0.0; F];
        for i in &order[..k] {
            out[*i] = row[*i].max(0.0);
        }
        out
    };
    pre.iter().map(row).collect()
}

fn relu(pre: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let row = |row: &Vec<f64>| row.iter().map(|p| p.max(0.0)).collect();
    pre.iter().map(row).collect()
}

const SKIPS: &str = "coder.skip_connection = true";

#[test]
fn topk_transcoders_with_and_without_a_skip_connection() {
    for skip in ["", SKIPS] {
        let world = world("topk", skip);
        world.check_all(|w| {
            let codes = largest(&world.pre(w, "b_enc"), K);
            world.mse(w, w, &codes) / world.variance_of_y()
        });
    }
    let world = world("topk", &format!("{SKIPS}\ncoder.multi_topk = true"));
    world.check_all(|w| {
        let pre = world.pre(w, "b_enc");
        let part = |k| world.mse(w, w, &largest(&pre, k)) / world.variance_of_y();
        part(K) + part(4 * K) / 8.0
    });
}

#[test]
fn relu_transcoder_with_a_skip_connection() {
    let mut world = world(
        "standard",
        &format!("{SKIPS}\ntraining.l1_coefficient = 0.3"),
    );
    relu_equals_its_loss(&world);
    // A crosscoder's penalty sums the norms at its hook points.
    world.widths = vec![3, 4];
    relu_equals_its_loss(&world);
}

fn relu_equals_its_loss(world: &World) {
    world.check_all(|w| {
        let codes = relu(&world.pre(w, "b_enc"));
        let norm = |i: usize| {
            let row = &w["w_dec"][i * D_OUT..][..D_OUT];
            let mut start = 0;
            let norms = world.widths.iter().map(|width| {
                start += width;
                let part = &row[start - width..start];
                dot(part, part).sqrt()
            });
            norms.sum::<f64>()
        };
        let l1 = |z: &Vec<f64>| (0..F).map(|i| z[i] * norm(i)).sum::<f64>();
        let penalty = codes.iter().map(l1).sum::<f64>() / N as f64;
        world.mse(w, w, &codes) + 0.3 * penalty
    });
}

#[test]
fn gated_transcoder_with_a_skip_connection_that_its_gates_do_not_move() {
    let world = world("gated", &format!("{SKIPS}\ntraining.l1_coefficient = 0.3"));
    let frozen = &world.weights;
    world.check_all(|w| {
        let gates = relu(&world.pre(w, "b_gate"));
        let none = vec![0.0; F];
        let zero = BTreeMap::from([
            ("w_enc".to_owned(), w["w_enc"].clone()),
            ("none".to_owned(), none),
        ]);
        let products = world.pre(&zero, "none");
        let value = |(h, gates): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
            (0..F)
                .map(|i| match gates[i] > 0.0 {
                    true => (w["r_mag"][i].exp() * h[i] + w["b_mag"][i]).max(0.0),
                    false => 0.0,
                })
                .collect()
        };
        let codes: Vec<Vec<f64>> = products.iter().zip(&gates).map(value).collect();
        let penalty = gates.iter().flatten().sum::<f64>() / N as f64;
        world.mse(w, w, &codes) + 0.3 * penalty + world.mse(frozen, frozen, &gates)
    });
}
