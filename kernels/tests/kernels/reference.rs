//! What the kernels are compared with: plain loops in f64, and the inputs and devices that the
//! tests share.

use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_kernels::EncoderState;
use lapidary_kernels::device::{self, DeviceChoice};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::LazyLock;

/// The CPU, and the first graphics adapter and the first CUDA card if there are any. With
/// `LAPIDARY_TEST_DEVICE` only the device that it names, which must then be there.
pub fn devices() -> Vec<Device> {
    if let Ok(name) = std::env::var("LAPIDARY_TEST_DEVICE") {
        return vec![device::open(name.parse().unwrap()).unwrap()];
    }
    let mut devices = vec![Device::flex()];
    for choice in [DeviceChoice::Wgpu(None), DeviceChoice::Cuda(None)] {
        match device::open(choice) {
            Ok(device) => devices.push(device),
            Err(error) => println!("skipped: {error}"),
        }
    }
    devices
}

/// One handle for all encoders of these tests, on whatever weights and from all threads: what it
/// holds must change no result.
pub fn state() -> &'static EncoderState {
    static STATE: LazyLock<EncoderState> = LazyLock::new(EncoderState::default);
    &STATE
}

/// n, d, F and k at random: of every order of magnitude that a test can pay for, and seldom a
/// multiple of anything.
pub fn random_shapes(seed: u64) -> Vec<[usize; 4]> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut up_to = |most: f32| most.powf(random.random::<f32>()).round() as usize;
    (0..24)
        .map(|_| {
            let (n, d, latents) = (up_to(200.0), up_to(70.0), up_to(900.0));
            [n, d, latents, up_to(latents as f32)]
        })
        .collect()
}

/// A row-major matrix of f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub numbers: Vec<f32>,
}

impl Matrix {
    /// Integers in `-most..=most`: sums of their products are exact in f32, and ties are common.
    pub fn integers(seed: u64, rows: usize, columns: usize, most: i32) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self {
            rows,
            columns,
            numbers: (0..rows * columns)
                .map(|_| random.random_range(-most..=most) as f32)
                .collect(),
        }
    }

    /// Uniform in -1 to 1.
    pub fn uniform(seed: u64, rows: usize, columns: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self {
            rows,
            columns,
            numbers: (0..rows * columns)
                .map(|_| random.random_range(-1.0..1.0))
                .collect(),
        }
    }

    pub fn at(&self, row: usize, column: usize) -> f64 {
        f64::from(self.numbers[row * self.columns + column])
    }

    pub fn on(&self, device: &Device) -> Tensor<2> {
        let data = TensorData::new(self.numbers.clone(), [self.rows, self.columns]);
        Tensor::from_data(data, device)
    }

    /// The only row, as a vector.
    pub fn vector_on(&self, device: &Device) -> Tensor<1> {
        assert_eq!(self.rows, 1);
        let data = TensorData::new(self.numbers.clone(), [self.columns]);
        Tensor::from_data(data, device)
    }
}

/// `x · w_encᵀ + b_enc`.
pub fn pre_activations(x: &Matrix, w_enc: &Matrix, b_enc: &Matrix) -> Vec<Vec<f64>> {
    (0..x.rows)
        .map(|row| {
            (0..w_enc.rows)
                .map(|latent| {
                    let product: f64 = (0..x.columns)
                        .map(|column| x.at(row, column) * w_enc.at(latent, column))
                        .sum();
                    product + b_enc.at(0, latent)
                })
                .collect()
        })
        .collect()
}

/// All latents of a row, best first: larger value, then lower index.
pub fn ranked(pre: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..pre.len()).collect();
    order.sort_by(|&a, &b| pre[b].total_cmp(&pre[a]).then(a.cmp(&b)));
    order
}

pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

pub fn ints(tensor: Tensor<2, Int>) -> Vec<i32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(
            error <= tolerance * expected.abs().max(1.0),
            "entry {at}: found {found}, expected {expected}"
        );
    }
}

/// Gradients against central differences of `loss`, entry by entry of each of the first inputs.
#[track_caller]
pub fn assert_gradients<const N: usize>(
    found: &[Vec<f32>],
    inputs: &[Matrix; N],
    loss: impl Fn(&[Matrix; N]) -> f64,
) {
    let step = 1.0 / 1024.0;
    for (which, found) in found.iter().enumerate() {
        for (entry, &found) in found.iter().enumerate() {
            let shifted = |by: f32| {
                let mut inputs = inputs.clone();
                inputs[which].numbers[entry] += by;
                // The shift as f32 made it.
                (f64::from(inputs[which].numbers[entry]), loss(&inputs))
            };
            let ((up_at, up), (down_at, down)) = (shifted(step), shifted(-step));
            let expected = (up - down) / (up_at - down_at);
            let error = (f64::from(found) - expected).abs();
            assert!(
                error <= 1e-4 * expected.abs().max(1.0),
                "input {which} entry {entry}: {found} against {expected}"
            );
        }
    }
}
