//! The hierarchical toy of Costa et al. 2025: children that are active only with their parent. Matching pursuit finds both; a
//! ReLU coder with an L1 penalty at the same number of active latents absorbs the parent into the child.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_activations::ActivationMatrix;
use lapidary_sae::{Architecture, RunConfig, SparseCoder, TrainingRun};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const N: usize = 20;
const PARENTS: [usize; 3] = [0, 4, 8];
const BATCH: usize = 200;

/// Directions of which siblings have cosine `rho`: three children each, and parents and singles.
fn directions(rho: f64, rng: &mut ChaCha8Rng) -> Vec<[f64; N]> {
    let mut q: Vec<[f64; N]> = Vec::new();
    while q.len() < N {
        // Gram and Schmidt.
        let mut row = [0.0; N];
        row.fill_with(|| normal(rng));
        for other in &q {
            let along = dot(&row, other);
            row.iter_mut().zip(other).for_each(|(r, o)| *r -= along * o);
        }
        q.push(unit(row));
    }
    let mut f = q.clone();
    let roots: Vec<usize> = PARENTS.into_iter().chain(12..N).collect();
    let children = PARENTS.map(|p| vec![p + 1, p + 2, p + 3]);
    for group in children.iter().chain([&roots]) {
        let n = group.len() as f64;
        let share = mixing(rho, n);
        for &i in group {
            let mut row = q[i].map(|v| v * (1.0 - share));
            for &j in group.iter().filter(|j| **j != i) {
                let part = share / (n - 1.0);
                row.iter_mut().zip(&q[j]).for_each(|(r, v)| *r += part * v);
            }
            f[i] = unit(row);
        }
    }
    f
}

/// How much of its siblings each of `n` orthonormal directions must take in for cosines of `rho`, by bisection.
fn mixing(rho: f64, n: f64) -> f64 {
    let cosine = |share: f64| {
        let (a, b) = (1.0 - share, share / (n - 1.0));
        (2.0 * a * b + (n - 2.0) * b * b) / (a * a + (n - 1.0) * b * b)
    };
    let (mut low, mut high) = (0.0, (n - 1.0) / n);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if cosine(middle) < rho {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt()
        * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(row: [f64; N]) -> [f64; N] {
    let norm = dot(&row, &row).sqrt();
    row.map(|v| v / norm)
}

/// Sums of one root, a parent with probability 0.2 each or a single with 0.05, and of a parent's child with probability 0.6.
fn samples(f: &[[f64; N]], rows: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut x = Vec::with_capacity(rows * N);
    for _ in 0..rows {
        let mut row = [0.0; N];
        let mut add = |i: usize, rng: &mut ChaCha8Rng| {
            let size = 1.5 + 0.25 * normal(rng);
            row.iter_mut().zip(&f[i]).for_each(|(r, v)| *r += size * v);
        };
        let root = rng.random::<f64>();
        if root < 0.6 {
            let parent = PARENTS[(root / 0.2) as usize];
            add(parent, rng);
            let child = (rng.random::<f64>() / 0.2) as usize;
            if child < 3 {
                add(parent + 1 + child, rng);
            }
        } else {
            add(12 + (((root - 0.6) / 0.05) as usize).min(7), rng);
        }
        x.extend(row.map(|v| v as f32));
    }
    x
}

/// For each row the column with which all together gain most (Kuhn 1955, in the form with potentials).
fn matched(gain: &[Vec<f64>]) -> Vec<usize> {
    let n = gain.len();
    let (mut u, mut v) = (vec![0.0; n + 1], vec![0.0; n + 1]);
    let mut row_of = vec![0; n + 1]; // of each column, counted from 1
    for row in 1..=n {
        row_of[0] = row;
        let mut column = 0;
        let (mut least, mut from) = (vec![f64::INFINITY; n + 1], vec![0; n + 1]);
        let mut used = vec![false; n + 1];
        while row_of[column] != 0 {
            used[column] = true;
            let at = row_of[column];
            let (mut step, mut next) = (f64::INFINITY, 0);
            for j in (1..=n).filter(|j| !used[*j]) {
                let left = -gain[at - 1][j - 1] - u[at] - v[j];
                if left < least[j] {
                    (least[j], from[j]) = (left, column);
                }
                if least[j] < step {
                    (step, next) = (least[j], j);
                }
            }
            for j in 0..=n {
                if used[j] {
                    u[row_of[j]] += step;
                    v[j] -= step;
                } else {
                    least[j] -= step;
                }
            }
            column = next;
        }
        while column != 0 {
            row_of[column] = row_of[from[column]];
            column = from[column];
        }
    }
    let mut columns = vec![0; n];
    (1..=n).for_each(|j| columns[row_of[j] - 1] = j - 1);
    columns
}

/// What a trained dictionary makes of the toy.
#[derive(Debug)]
#[allow(dead_code)] // all are printed
struct Found {
    /// Mean cosine of true directions and the decoder rows matched with them.
    cosine: f64,
    /// Mean cosine of the rows of parents and of their children; 0 in truth.
    parent_child: f64,
    /// Fraction of variance unexplained.
    fvu: f64,
    l0: f64,
}

fn found(recipe: &str, rho: f64, seed: u64) -> (Found, TrainingRun, Tensor<2>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let f = directions(rho, &mut rng);
    let matrix = |values: Vec<f32>| {
        let rows = values.len() / N;
        Tensor::<2>::from_data(TensorData::new(values, [rows, N]), &Device::flex())
    };
    let source = ActivationMatrix::new(matrix(samples(&f, 200_000, &mut rng)), BATCH, seed);
    let recipe = format!("seed = {seed}\nactivations.normalization = 'none'\n{recipe}");
    let config = RunConfig::parse("toy", &recipe, &[]).unwrap();
    let mut trainer =
        TrainingRun::new(&[config], Box::new(source.unwrap()), &Device::flex()).unwrap();
    trainer.run(&mut |_, _| ()).unwrap();

    let coder = trainer.finish(0).unwrap().coder;
    let x = matrix(samples(&f, 4000, &mut rng));
    let codes = coder.encode(x.clone());
    let active = codes.values.clone().not_equal_elem(0.0).float().sum();
    let square = |t: Tensor<2>| f64::from(t.square().sum().into_scalar::<f32>());
    let spread = square(x.clone() - x.clone().mean_dim(0));
    let fvu = square(coder.decode(codes) - x.clone()) / spread;
    let rows: Vec<f64> = coder.w_dec().to_data().iter().collect();
    let rows: Vec<[f64; N]> = rows
        .chunks(N)
        .map(|r| unit(r.try_into().unwrap()))
        .collect();
    let cosines: Vec<Vec<f64>> = f
        .iter()
        .map(|f| rows.iter().map(|r| dot(f, r)).collect())
        .collect();
    let of = matched(&cosines);
    let family = PARENTS
        .iter()
        .flat_map(|p| (1..=3).map(move |c| (*p, p + c)));
    let result = Found {
        cosine: (0..N).map(|i| cosines[i][of[i]]).sum::<f64>() / N as f64,
        parent_child: family
            .map(|(p, c)| dot(&rows[of[p]], &rows[of[c]]))
            .sum::<f64>()
            / 9.0,
        fvu,
        l0: f64::from(active.into_scalar::<f32>()) / 4000.0,
    };
    (result, trainer, x)
}

fn recipe(architecture: &str, coder: &str, training: &str) -> String {
    format!(
        "[coder]\narchitecture = '{architecture}'\nd_sae = {N}\nb_dec_init = 'zeros'\n{coder}\n\
         [training]\nbatch_tokens = {BATCH}\ntokens = 1000000\nlr = 3e-2\nlr_warmup_steps = 100\nadam_beta1 = 0.5\n\
         adam_beta2 = 0.9375\nadam_eps = 1e-8\nlog_every_steps = 1000\ndead_check_every_steps = 100\n{training}"
    )
}

const PURSUIT: &str =
    "k = 60\nmatching_pursuit = { residual_threshold = 0.05, stop_on_duplicate_support = true }";

#[test]
fn matching_pursuit_keeps_parents_and_children_apart_where_l1_does_not() {
    for rho in [0.0, 0.2, 0.4] {
        let (mut cosine, mut parent_child) = (0.0, 0.0);
        for seed in 0..3 {
            let text = recipe("matching_pursuit", PURSUIT, "clip_grad_norm = 0.4");
            let (mp, ..) = found(&text, rho, seed);
            println!("cosine of siblings {rho}, seed {seed}: matching pursuit {mp:.3?}");
            assert!(mp.fvu < 1e-3 && mp.l0 < 1.6);
            cosine += mp.cosine / 3.0;
            parent_child += mp.parent_child / 3.0;
        }
        println!(
            "cosine of siblings {rho}: matched cosine {cosine:.3}, parent-child {parent_child:.3}"
        );
        assert!(cosine >= 0.98 && parent_child.abs() <= 0.05);
        let text = recipe("standard", "", "l1_coefficient = 0.2\nclip_grad_norm = 1");
        let (l1, ..) = found(&text, rho, 0);
        println!("cosine of siblings {rho}, seed 0: ReLU with L1 {l1:.3?}");
        assert!(l1.cosine <= 0.95 && l1.parent_child >= 0.3);
    }
    // Where siblings are much alike the advantage goes: reported, not promised.
    for rho in [0.6, 0.8] {
        for (name, coder, training) in [
            ("matching_pursuit", PURSUIT, "clip_grad_norm = 0.4"),
            ("standard", "", "l1_coefficient = 0.2\nclip_grad_norm = 1"),
        ] {
            let (result, ..) = found(&recipe(name, coder, training), rho, 0);
            println!("cosine of siblings {rho}, seed 0: {name} {result:.3?}");
            assert!(result.fvu < 0.1);
        }
    }
}

#[test]
fn more_steps_never_raise_the_error_and_beat_one_shot() {
    for refit in [false, true] {
        let coder = format!("k = 3\nmatching_pursuit = {{ refit = {refit} }}");
        let text = recipe("matching_pursuit", &coder, "clip_grad_norm = 0.4")
            .replace("tokens = 1000000", "tokens = 100000");
        let (_, trainer, x) = found(&text, 0.4, 0);
        let mut coder = trainer.finish(0).unwrap().coder;
        let error = |coder: &SparseCoder| {
            let left = coder.decode(coder.encode(x.clone())) - x.clone();
            left.square().sum().into_scalar::<f32>()
        };
        let mut errors = Vec::new();
        for k in [1, 2, 3, 4, 6, 10, 20] {
            coder.k = k;
            errors.push(error(&coder));
        }
        println!("refit {refit}: errors {errors:?}");
        assert!(errors.windows(2).all(|pair| pair[1] <= pair[0] * 1.000_001));
        assert!(errors[6] < 0.5 * errors[1], "{errors:?}");

        // The same dictionary with its k best products at once.
        coder.k = 3;
        let mut one_shot = coder.clone();
        one_shot.architecture = Architecture::TopK;
        let b_enc = Tensor::<1>::zeros([N], &Device::flex());
        let w_enc = coder.w_dec();
        one_shot.weights = one_shot.weights.with("w_enc", w_enc).with("b_enc", b_enc);
        assert!(errors[2] < error(&one_shot));
    }
}
