//! Gradients of every architecture's loss as an autoencoder.

use burn::tensor::{Device, Tensor};
use lapidary_coder::{Coder, Penalty, Shape};

use super::{STEP, StepOutput, Values, World, close, gradient, scalar, variance};

const D: usize = 5;
const F: usize = 16;
const N: usize = 7;
const K: usize = 3;

type Matrix = Vec<Vec<f64>>;

fn world(architecture: &str, recipe: &str, seed: u64) -> World {
    let text = format!(
        "coder.architecture = '{architecture}'\ncoder.k = {K}\ncoder.d_sae = {F}\n{recipe}"
    );
    World::new(&text, D, [D, D, F], N, seed)
}

impl World {
    /// `⟨w_enc, x − b_dec⟩`, `[n, F]`.
    fn products(&self, weights: &Values) -> Matrix {
        let (w, b) = (&weights["w_enc"], &weights["b_dec"]);
        let product = |x: &[f64], i: usize| (0..D).map(|j| w[i * D + j] * (x[j] - b[j])).sum();
        let row = |x: &[f64]| (0..F).map(|i| product(x, i)).collect();
        self.x.chunks(D).map(row).collect()
    }

    /// The same plus a bias.
    fn biased(&self, weights: &Values, bias: &str) -> Matrix {
        let mut pre = self.products(weights);
        for row in &mut pre {
            for (p, b) in row.iter_mut().zip(&weights[bias]) {
                *p += b;
            }
        }
        pre
    }

    /// The squared error of a token, mean over the batch.
    fn error_of(&self, weights: &Values, codes: &Matrix) -> f64 {
        let (w, b) = (&weights["w_dec"], &weights["b_dec"]);
        let error = |z: &Vec<f64>, x: &[f64], j: usize| {
            let x_hat: f64 = b[j] + (0..F).map(|i| z[i] * w[i * D + j]).sum::<f64>();
            (x_hat - x[j]).powi(2)
        };
        let rows = codes.iter().zip(self.x.chunks(D));
        let all = rows.map(|(z, x)| (0..D).map(|j| error(z, x, j)).sum::<f64>());
        all.sum::<f64>() / N as f64
    }

    fn variance_of_x(&self) -> f64 {
        let rows: Matrix = self.x.chunks(D).map(<[f64]>::to_vec).collect();
        variance(&rows)
    }
}

/// `pre` where it exceeds `least`, else 0.
fn above(pre: &Matrix, least: impl Fn(usize) -> f64) -> Matrix {
    let keep = |(i, p): (usize, &f64)| if *p > least(i) { *p } else { 0.0 };
    let row = |row: &Vec<f64>| row.iter().enumerate().map(keep).collect();
    pre.iter().map(row).collect()
}

#[test]
fn gated_equals_its_loss_with_a_frozen_decoder_for_the_gates() {
    let world = world("gated", "[training]\nl1_coefficient = 0.3", 5);
    let loss = |w: &Values| {
        let (b_gate, b_mag, r_mag) = (&w["b_gate"], &w["b_mag"], &w["r_mag"]);
        let products = world.products(w);
        let gates = above(&world.biased(w, "b_gate"), |_| 0.0);
        let value = |row: usize, i: usize| {
            let h = products[row][i];
            let magnitude = (h * r_mag[i].exp() + b_mag[i]).max(0.0);
            if h + b_gate[i] > 0.0 { magnitude } else { 0.0 }
        };
        let codes = (0..N).map(|row| (0..F).map(|i| value(row, i)).collect());
        let penalty = gates.iter().flatten().sum::<f64>() / N as f64;
        let frozen = world.error_of(&world.weights, &gates);
        world.error_of(w, &codes.collect()) + 0.3 * penalty + frozen
    };
    world.check(&world.step(&[]), &[], loss);
}

/// Value of a JumpReLU smoothed over a window: z above it, 0 below, and such that its derivative in
/// the threshold is −θ/ε within.
fn smooth_value(z: f64, theta: f64, width: f64) -> f64 {
    let theta = theta.clamp(z - width / 2.0, z + width / 2.0);
    ((z + width / 2.0).powi(2) - theta.powi(2)) / (2.0 * width)
}

/// A step smoothed over a window.
fn smooth_gate(z: f64, theta: f64, width: f64) -> f64 {
    ((z - theta) / width + 0.5).clamp(0.0, 1.0)
}

#[test]
fn jumprelu_equals_its_loss_and_for_thresholds_the_loss_smoothed_over_the_bandwidth() {
    const WIDTH: f64 = 0.7;
    const WEIGHT: f64 = 0.4;
    let (target, scale) = (2.5, 1.5);
    for penalty in ["step", "quadratic", "tanh"] {
        let recipe = format!(
            "[coder.jumprelu]\npenalty = '{penalty}'\nbandwidth = {WIDTH}\nl0_coefficient = {WEIGHT}\ntarget_l0 = {target}\n\
             tanh_scale = {scale}"
        );
        let world = world("jumprelu", &recipe, 8);
        let learned = world.step(&[]);
        let norm = |w: &Values, i: usize| {
            let row = &w["w_dec"][i * D..(i + 1) * D];
            row.iter().map(|v| v * v).sum::<f64>().sqrt()
        };
        // The loss as a function of weights, values and gates.
        let loss_of = |w: &Values, codes: &Matrix, gates: &Matrix| {
            let rows = codes.iter().zip(gates).map(|(codes, gates)| match penalty {
                "step" => gates.iter().sum::<f64>(),
                "quadratic" => (gates.iter().sum::<f64>() - target).powi(2) * 2.0 / target,
                _ => {
                    let each = codes.iter().enumerate();
                    each.map(|(i, a)| (scale * a * norm(w, i)).tanh()).sum()
                }
            });
            world.error_of(w, codes) + WEIGHT * rows.sum::<f64>() / N as f64
        };
        let codes_of = |w: &Values| above(&world.biased(w, "b_enc"), |i| w["threshold"][i]);
        let gates_of = |codes: &Matrix| -> Matrix {
            let on = |a: &f64| f64::from(u8::from(*a > 0.0));
            codes
                .iter()
                .map(|row| row.iter().map(on).collect())
                .collect()
        };
        let hard = |w: &Values| {
            let codes = codes_of(w);
            loss_of(w, &codes, &gates_of(&codes))
        };
        world.check(&learned, &["w_enc", "b_enc", "w_dec", "b_dec"], hard);

        // Derivatives of the loss in each value and each gate, by differences.
        let (pre, codes) = (
            world.biased(&world.weights, "b_enc"),
            codes_of(&world.weights),
        );
        let gates = gates_of(&codes);
        let slope = |of_gate: bool, row: usize, i: usize| {
            let at = |step: f64| {
                let (mut codes, mut gates) = (codes.clone(), gates.clone());
                let moved = if of_gate { &mut gates } else { &mut codes };
                moved[row][i] += step;
                loss_of(&world.weights, &codes, &gates)
            };
            (at(STEP) - at(-STEP)) / (2.0 * STEP)
        };
        let mut slopes = Vec::new();
        for row in 0..N {
            for i in 0..F {
                slopes.push((row, i, slope(false, row, i), slope(true, row, i)));
            }
        }
        let inside = |(row, i, ..): &&(usize, usize, f64, f64)| {
            (pre[*row][*i] - world.weights["threshold"][*i]).abs() < WIDTH / 2.0
        };
        assert!(slopes.iter().filter(inside).count() > 10);
        let smoothed = |w: &Values| -> f64 {
            let terms = slopes.iter().map(|(row, i, of_value, of_gate)| {
                let (z, theta) = (pre[*row][*i], w["threshold"][*i]);
                of_value * smooth_value(z, theta, WIDTH) + of_gate * smooth_gate(z, theta, WIDTH)
            });
            terms.sum()
        };
        let thresholds = world.differences("threshold", smoothed);
        close("threshold", &gradient(&learned, "threshold"), &thresholds);

        // Passed on to the input, it is what the thresholds get, with the other sign.
        let passed_on = self::world("jumprelu", &(recipe + "\nste_to_input = true"), 8).step(&[]);
        let expected: Vec<f64> = gradient(&learned, "b_enc")
            .iter()
            .zip(gradient(&learned, "threshold"))
            .map(|(b, t)| b - t)
            .collect();
        close("b_enc", &gradient(&passed_on, "b_enc"), &expected);
        let threshold = gradient(&learned, "threshold");
        close("threshold", &gradient(&passed_on, "threshold"), &threshold);
    }
}

#[test]
fn jumprelu_asks_dead_latents_for_what_they_lack() {
    let recipe = "coder.jumprelu.pre_act_coefficient = 0.7\ncoder.jumprelu.l0_coefficient = 0\ntraining.revival = 'none'";
    let world = world("jumprelu", recipe, 8);
    let dead = [1usize, 4, 9];
    let list = Tensor::from_ints(dead.map(|i| i as i32), &Device::flex());
    let learned = world.step(&[Some(list)]);
    let loss = |w: &Values| {
        let (pre, theta) = (world.biased(w, "b_enc"), &w["threshold"]);
        let lacks = |row: &Vec<f64>| -> f64 {
            let each = dead.iter().map(|&i| {
                let norm = w["w_dec"][i * D..(i + 1) * D].iter();
                (theta[i] - row[i]).max(0.0) * norm.map(|v| v * v).sum::<f64>().sqrt()
            });
            each.sum()
        };
        let codes = above(&pre, |i| theta[i]);
        world.error_of(w, &codes) + 0.7 * pre.iter().map(lacks).sum::<f64>() / N as f64
    };
    world.check(&learned, &["w_enc", "b_enc", "w_dec", "b_dec"], loss);
}

#[test]
fn aux_k_adds_the_same_to_the_loss_of_every_coder_with_an_encoder() {
    const K_AUX: usize = 4;
    const WEIGHT: f64 = 0.4;
    let dead = [1usize, 4, 9, 12, 13];
    let list = || Tensor::from_ints(dead.map(|i| i as i32), &Device::flex());
    for (architecture, bias, loss) in [
        ("topk", "b_enc", "local"),
        ("standard", "b_enc", "local"),
        ("standard", "b_enc", "kl"), // without a local loss
        ("jumprelu", "b_enc", "local"),
        ("proximal", "b_enc", "local"),
        ("gated", "b_gate", "local"),
    ] {
        let recipe = format!(
            "[training]\nloss = '{loss}'\nrevival = 'aux_k'\naux_k = {K_AUX}\naux_k_coefficient = {WEIGHT}"
        );
        let world = world(architecture, &recipe, 5);
        let (with, without) = (world.step(&[Some(list())]), world.step(&[]));
        let (coder, x) = (world.coder(), world.batch().x);
        let left = x.clone() - coder.reconstruct(coder.encode(x.clone()), x);
        let left: Vec<f64> = left.to_data().iter().collect();
        let left: Matrix = left.chunks(D).map(<[f64]>::to_vec).collect();
        // The largest pre-activations of dead latents.
        let chosen = |w: &Values| -> Matrix {
            let row = |row: &Vec<f64>| {
                let mut order = dead.to_vec();
                order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
                let mut out = vec![0.0; F];
                for i in &order[..K_AUX] {
                    out[*i] = row[*i];
                }
                out
            };
            world.biased(w, bias).iter().map(row).collect()
        };
        // What ReLU adds to them is a constant to the gradient.
        let start = chosen(&world.weights);
        assert!(start.iter().flatten().any(|z| *z < 0.0), "{architecture}");
        // A threshold has the gradient of the pre-activation with the other sign.
        let raised = |w: &Values, i: usize| match architecture {
            "jumprelu" => w["threshold"][i] - world.weights["threshold"][i],
            _ => 0.0,
        };
        let aux = |w: &Values| -> f64 {
            let rows = chosen(w).into_iter().zip(&start).zip(&left);
            let misses = rows.map(|((codes, start), left)| -> f64 {
                let code = |i: usize| match start[i] == 0.0 {
                    true => 0.0,
                    false => codes[i] - start[i].min(0.0) - raised(w, i),
                };
                let guess =
                    |j: usize| -> f64 { (0..F).map(|i| code(i) * w["w_dec"][i * D + j]).sum() };
                (0..D).map(|j| (guess(j) - left[j]).powi(2)).sum()
            });
            misses.sum::<f64>() / N as f64 / variance(&left)
        };
        // Beside a squared error, the share counts as the batch's variance.
        let weight = match (architecture, loss) {
            ("topk", _) | (_, "kl") => WEIGHT,
            _ => WEIGHT * world.variance_of_x(),
        };
        // The gates of a gated coder have an auxiliary loss of their own.
        let term = |output: &StepOutput| output.terms.aux.as_ref().map_or(0.0, scalar);
        let (found, expected) = (term(&with) - term(&without), aux(&world.weights));
        assert!((found - expected).abs() < 1e-4 * expected, "{architecture}");
        let added = scalar(&with.terms.total) - scalar(&without.terms.total);
        let expected = weight * expected;
        assert!((added - expected).abs() < 1e-3 * expected, "{architecture}");
        let thresholds = world.weights.contains_key("threshold");
        let trained = ["w_enc", bias, "w_dec", "b_dec"].into_iter();
        for name in trained.chain(thresholds.then_some("threshold")) {
            let both = gradient(&with, name)
                .into_iter()
                .zip(gradient(&without, name));
            let added: Vec<f64> = both.map(|(with, without)| with - without).collect();
            let expected = world.differences(name, |w| weight * aux(w));
            close(&format!("{architecture}, {name}"), &added, &expected);
        }
    }
}

/// Of each row, or of all rows together, the largest positive pre-activations.
fn largest(pre: &Matrix, k: usize, together: bool) -> Matrix {
    let least = |values: Vec<f64>, k: usize| {
        let mut sorted = values;
        sorted.sort_by(|a, b| b.total_cmp(a));
        (sorted[k - 1] + sorted[k]) / 2.0
    };
    if together {
        let level = least(pre.iter().flatten().copied().collect(), k * N);
        return above(pre, |_| level.max(0.0));
    }
    let row = |row: &Vec<f64>| {
        let level = least(row.clone(), k).max(0.0);
        above(&vec![row.clone()], |_| level).remove(0)
    };
    pre.iter().map(row).collect()
}

#[test]
fn matryoshka_equals_the_sum_over_its_prefixes() {
    let world = world("matryoshka", "coder.matryoshka.widths = [3, 9]", 3);
    let loss = |w: &Values| {
        let codes = largest(&world.biased(w, "b_enc"), K, true);
        let prefix = |width: usize| -> Matrix {
            let cut = |row: &Vec<f64>| {
                let each = row.iter().enumerate();
                each.map(|(i, a)| if i < width { *a } else { 0.0 })
                    .collect()
            };
            codes.iter().map(cut).collect()
        };
        let errors = [3, 9, F].map(|width| world.error_of(w, &prefix(width)));
        errors.iter().sum::<f64>() / world.variance_of_x()
    };
    world.check(&world.step(&[]), &[], loss);
}

#[test]
fn multi_topk_equals_its_two_reconstructions() {
    let world = world("topk", "coder.multi_topk = true", 4);
    let learned = world.step(&[]);
    let fvu = |w: &Values, k: usize| {
        let codes = largest(&world.biased(w, "b_enc"), k, false);
        world.error_of(w, &codes) / world.variance_of_x()
    };
    let own = fvu(&world.weights, K);
    assert!((scalar(&learned.terms.fvu) - own).abs() < 1e-4);
    world.check(&learned, &[], |w| fvu(w, K) + fvu(w, 4 * K) / 8.0);
}

#[test]
fn proximal_equals_its_loss_with_each_penalty() {
    for (name, shape, weight, shape_param) in [
        ("l1", Shape::L1, 0.2, 0.0),
        ("l0", Shape::L0, 0.1, 0.0),
        ("l_half", Shape::LHalf, 0.1, 0.0),
        ("log_sum", Shape::LogSum, 0.2, 0.5),
        ("cel0", Shape::Cel0, 0.1, 0.0),
        ("scad", Shape::Scad, 0.2, 3.7),
        ("mcp", Shape::Mcp, 0.2, 2.0),
    ] {
        let penalty = Penalty {
            shape,
            weight,
            shape_param,
        };
        let recipe =
            format!("[coder.proximal]\nshape = '{name}'\nweight = {weight}\nbend = {shape_param}");
        let world = world("proximal", &recipe, 6);
        let loss = |w: &Values| {
            let pre = world.biased(w, "b_enc");
            let shrink = |row: &Vec<f64>| row.iter().map(|u| penalty.prox(*u)).collect();
            let codes: Matrix = pre.iter().map(shrink).collect();
            let cost: f64 = codes.iter().flatten().map(|x| penalty.value(*x)).sum();
            world.error_of(w, &codes) + 2.0 * cost / N as f64
        };
        world.check(&world.step(&[]), &[], loss);
    }
}
