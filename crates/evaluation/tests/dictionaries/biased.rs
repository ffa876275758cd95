//! Biased representations (Lampinen, Chan, Hermann 2024): a network that learns an easy and a hard
//! feature equally well gives the easy one the larger share of its representation, and a dictionary
//! of that representation inherits it.

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_activations::ActivationMatrix;
use lapidary_coder::{Coder, host, host_int};
use lapidary_evaluation::probing::{
    ProbeConfig, Represented, Rows, Task, feature_shares, sparse_probing,
};
use lapidary_sae::{Recipe, TrainingRun};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BITS: usize = 8;
const WIDTH: usize = 32;
const TASKS: usize = 2;

/// Bits as ±1, and what is asked of them: the first (easy), and the parity of the next three
/// (hard).
fn sample(rng: &mut ChaCha8Rng) -> ([f64; BITS], [bool; TASKS]) {
    let x: [f64; BITS] = std::array::from_fn(|_| if rng.random::<bool>() { 1.0 } else { -1.0 });
    (x, [x[0] > 0.0, x[1] * x[2] * x[3] > 0.0])
}

/// A matrix of weights `[n_out, n_in]` with biases, trained by Adam.
struct Layer {
    n_in: usize,
    /// Each row ends with its bias.
    weights: Vec<f64>,
    gradient: Vec<f64>,
    moments: Vec<(f64, f64)>,
}

impl Layer {
    fn new(n_in: usize, n_out: usize, rng: &mut ChaCha8Rng) -> Self {
        let size = (n_in + 1) * n_out;
        let scale = (6.0 / n_in as f64).sqrt();
        Self {
            n_in,
            weights: (0..size)
                .map(|_| scale * (2.0 * rng.random::<f64>() - 1.0))
                .collect(),
            gradient: vec![0.0; size],
            moments: vec![(0.0, 0.0); size],
        }
    }

    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.weights.chunks_exact(self.n_in + 1);
        rows.map(|w| w[self.n_in] + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>())
            .collect()
    }

    /// Adds to the gradient, and gives that of the input.
    fn backward(&mut self, x: &[f64], g: &[f64]) -> Vec<f64> {
        let mut to_input = vec![0.0; self.n_in];
        let rows = self
            .weights
            .chunks_exact(self.n_in + 1)
            .zip(self.gradient.chunks_exact_mut(self.n_in + 1));
        for ((w, gradient), g) in rows.zip(g) {
            for i in 0..self.n_in {
                gradient[i] += g * x[i];
                to_input[i] += g * w[i];
            }
            gradient[self.n_in] += g;
        }
        to_input
    }

    fn step(&mut self, t: i32) {
        for ((w, g), (m, v)) in self
            .weights
            .iter_mut()
            .zip(&mut self.gradient)
            .zip(&mut self.moments)
        {
            *m = 0.9 * *m + 0.1 * *g;
            *v = 0.999 * *v + 0.001 * *g * *g;
            *w -= 3e-3 * (*m / (1.0 - 0.9f64.powi(t)))
                / ((*v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
            *g = 0.0;
        }
    }
}

fn relu(v: Vec<f64>) -> Vec<f64> {
    v.into_iter().map(|v| v.max(0.0)).collect()
}

/// A network with two hidden layers.
struct Network(Layer, Layer, Layer);

impl Network {
    fn trained(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut n = Self(
            Layer::new(BITS, WIDTH, &mut rng),
            Layer::new(WIDTH, WIDTH, &mut rng),
            Layer::new(WIDTH, TASKS, &mut rng),
        );
        for t in 1..=1500 {
            for _ in 0..64 {
                let (x, labels) = sample(&mut rng);
                let (a, b, logits) = n.run(&x);
                let slope =
                    |z: f64, y: bool| (1.0 / (1.0 + (-z).exp()) - f64::from(u8::from(y))) / 64.0;
                let g: Vec<f64> = logits
                    .iter()
                    .zip(labels)
                    .map(|(z, y)| slope(*z, y))
                    .collect();
                let through = |g: Vec<f64>, h: &[f64]| -> Vec<f64> {
                    g.iter()
                        .zip(h)
                        .map(|(g, h)| if *h > 0.0 { *g } else { 0.0 })
                        .collect()
                };
                let g = through(n.2.backward(&b, &g), &b);
                let g = through(n.1.backward(&a, &g), &a);
                n.0.backward(&x, &g);
            }
            n.0.step(t);
            n.1.step(t);
            n.2.step(t);
        }
        n
    }

    fn run(&self, x: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let a = relu(self.0.forward(x));
        let b = relu(self.1.forward(&a));
        let logits = self.2.forward(&b);
        (a, b, logits)
    }
}

/// Accuracies of the best single latent of a TopK dictionary of the representation, one for each
/// feature.
fn best_latents(representation: &[f32], labels: &[Vec<f64>], seed: u64) -> [f64; TASKS] {
    let (n, device) = (representation.len() / WIDTH, Device::flex());
    let x = Tensor::<2>::from_data(
        TensorData::new(representation.to_vec(), [n, WIDTH]),
        &device,
    );
    let recipe =
        "[coder]\nd_sae = 64\nk = 4\n[training]\nbatch_tokens = 256\ntokens = 200000\nlr = 2e-3";
    let config = Recipe::parse("biased", &format!("seed = {seed}\n{recipe}"), &[]).unwrap();
    let source = ActivationMatrix::new(x.clone(), 256, seed).unwrap();
    let mut trainer = TrainingRun::new(&[config], Box::new(source), &device).unwrap();
    trainer.run(&mut |_, _| ()).unwrap();
    let codes = trainer.finish(0).unwrap().coder.encode(x);
    let k = codes.values.dims()[1];
    let (values, indices) = (
        host(&codes.values).unwrap(),
        host_int(&codes.indices).unwrap(),
    );
    let mut latents = Rows::new(64);
    for (values, indices) in values.chunks_exact(k).zip(indices.chunks_exact(k)) {
        latents.push(indices.iter().zip(values).map(|(i, v)| (*i as u32, *v)));
    }
    let all = Represented {
        activations: Rows::dense(representation, WIDTH),
        latents,
    };
    let part = |rows: std::ops::Range<usize>| {
        let rows: Vec<usize> = rows.collect();
        Represented {
            activations: all.activations.pick(&rows),
            latents: all.latents.pick(&rows),
        }
    };
    std::array::from_fn(|task| {
        let classes: Vec<usize> = labels[task].iter().map(|l| *l as usize).collect();
        let task = Task {
            classes: vec!["no".into(), "yes".into()],
            train: part(0..n / 2),
            train_classes: classes[..n / 2].to_vec(),
            test: part(n / 2..n),
            test_classes: classes[n / 2..].to_vec(),
        };
        let config = ProbeConfig {
            ks: vec![1],
            ..ProbeConfig::default()
        };
        let found = sparse_probing(&task, &config, &mut |_| ()).unwrap();
        found
            .iter()
            .map(|r| r.top_k[0].sae_test_accuracy)
            .fold(0.0, f64::max)
    })
}

#[test]
fn the_easy_feature_takes_the_larger_share_and_the_better_latent() {
    let (mut easier, mut better) = (0, 0);
    for seed in 0..5 {
        let network = Network::trained(seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed + 100);
        let (mut right, mut representation) = ([0; TASKS], Vec::new());
        let mut labels = vec![Vec::new(); TASKS];
        let n = 4096;
        for _ in 0..n {
            let (x, wanted) = sample(&mut rng);
            let (_, b, logits) = network.run(&x);
            for task in 0..TASKS {
                right[task] += usize::from((logits[task] > 0.0) == wanted[task]);
                labels[task].push(f64::from(u8::from(wanted[task])));
            }
            representation.extend(b.iter().map(|v| *v as f32));
        }
        // Both are learnt.
        assert!(
            right.iter().all(|r| *r as f64 >= 0.99 * n as f64),
            "{right:?}"
        );
        let shares = feature_shares(&labels, &Rows::dense(&representation, WIDTH), n / 2).unwrap();
        let latents = best_latents(&representation, &labels, seed);
        println!(
            "seed {seed}: shares of easy and hard {shares:.3?}, accuracies of their best latents {latents:.3?}"
        );
        easier += usize::from(shares[0] > shares[1]);
        better += usize::from(latents[0] >= latents[1]);
    }
    assert!(easier >= 4 && better >= 4, "{easier} {better}");
}
