use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_kernels::{SparseCodes, decode_sparse};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::reference::{Matrix, assert_close, devices, floats};

/// n, k, F, d.
const SHAPES: [[usize; 4]; 6] = [
    [1, 1, 1, 1],
    [7, 3, 20, 5],
    [33, 9, 300, 77],
    [300, 4, 6, 3],
    [2, 40, 41, 300],
    [2, 257, 258, 2],
];

/// Distinct latents for each row, in any order.
fn random_indices(seed: u64, n: usize, k: usize, latents: usize) -> Vec<i32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut indices = Vec::new();
    for _ in 0..n {
        let mut row: Vec<i32> = (0..latents as i32).collect();
        for at in 0..k {
            row.swap(at, random.random_range(at..latents));
        }
        indices.extend_from_slice(&row[..k]);
    }
    indices
}

fn index_tensor(indices: &[i32], n: usize, k: usize, device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(indices.to_vec(), [n, k]), device)
}

#[test]
fn decoding_and_its_gradients_are_those_of_the_dense_product() {
    for device in devices() {
        for [n, k, latents, d] in SHAPES {
            let values = Matrix::integers(1, n, k, 3);
            let w_dec = Matrix::integers(2, latents, d, 3);
            let weights = Matrix::integers(3, n, d, 3);
            let indices = random_indices(4, n, k, latents);

            let mut out = vec![0.0; n * d];
            let mut dvalues = vec![0.0; n * k];
            let mut dw = vec![0.0; latents * d];
            for row in 0..n {
                for j in 0..k {
                    let latent = indices[row * k + j] as usize;
                    for column in 0..d {
                        out[row * d + column] += values.at(row, j) * w_dec.at(latent, column);
                        dvalues[row * k + j] += weights.at(row, column) * w_dec.at(latent, column);
                        dw[latent * d + column] += values.at(row, j) * weights.at(row, column);
                    }
                }
            }

            let tracked = device.clone().autodiff();
            let tv = values.on(&tracked).require_grad();
            let tw = w_dec.on(&tracked).require_grad();
            let codes = SparseCodes {
                values: tv.clone(),
                indices: index_tensor(&indices, n, k, &tracked),
            };
            let y = decode_sparse(codes, tw.clone());
            assert_eq!(y.dims(), [n, d]);
            assert_close(&floats(y.clone()), &out, 0.0);
            let grads = (y * weights.on(&tracked)).sum().backward();
            assert_close(&floats(tv.grad(&grads).unwrap()), &dvalues, 0.0);
            assert_close(&floats(tw.grad(&grads).unwrap()), &dw, 0.0);
        }
    }
}

#[test]
fn real_numbers_decode_alike_on_every_device() {
    for device in devices() {
        let [n, k, latents, d] = [37, 8, 500, 65];
        let (values, w_dec) = (Matrix::uniform(5, n, k), Matrix::uniform(6, latents, d));
        let indices = random_indices(7, n, k, latents);
        let mut expected = vec![0.0; n * d];
        for row in 0..n {
            for j in 0..k {
                for column in 0..d {
                    expected[row * d + column] +=
                        values.at(row, j) * w_dec.at(indices[row * k + j] as usize, column);
                }
            }
        }
        let codes = SparseCodes {
            values: values.on(&device),
            indices: index_tensor(&indices, n, k, &device),
        };
        assert_close(
            &floats(decode_sparse(codes, w_dec.on(&device))),
            &expected,
            1e-5,
        );
    }
}

#[test]
fn indices_of_another_integer_type_decode_too() {
    let device = Device::flex();
    let indices = TensorData::new(vec![1i64, 0], [1, 2]);
    let codes = SparseCodes {
        values: Tensor::from_floats([[2.0, 1.0]], &device),
        indices: Tensor::from_data(indices, (&device, burn::tensor::DType::I64)),
    };
    let w_dec = Tensor::from_floats([[1.0, 0.0], [0.0, 3.0]], &device);
    assert_eq!(floats(decode_sparse(codes, w_dec)), [1.0, 6.0]);
}

#[test]
fn no_rows_decode_to_no_rows() {
    for device in devices() {
        let codes = SparseCodes {
            values: Tensor::zeros([0, 2], &device),
            indices: Tensor::zeros([0, 2], &device),
        };
        let y = decode_sparse(codes, Tensor::ones([6, 3], &device));
        assert_eq!(y.dims(), [0, 3]);
        assert!(floats(y).is_empty());
    }
}

#[test]
fn inactive_codes_touch_nothing_even_beside_infinities() {
    for device in devices() {
        let codes = SparseCodes {
            values: Tensor::from_floats([[2.0, 0.0]], &device),
            indices: Tensor::from_ints([[0, 1]], &device),
        };
        let w_dec = Tensor::from_floats([[1.0], [f32::INFINITY]], &device);
        assert_eq!(floats(decode_sparse(codes, w_dec)), [2.0]);
    }
}

#[test]
#[should_panic(expected = "values [1, 2] but indices [1, 3]")]
fn values_without_their_indices_are_refused() {
    let device = Device::flex();
    let codes = SparseCodes {
        values: Tensor::zeros([1, 2], &device),
        indices: Tensor::zeros([1, 3], &device),
    };
    decode_sparse(codes, Tensor::ones([6, 3], &device));
}

#[test]
fn gradients_are_the_same_bits_on_every_run() {
    for device in devices() {
        let run = || {
            let tracked = device.clone().autodiff();
            let tv = Matrix::uniform(8, 200, 6).on(&tracked).require_grad();
            let tw = Matrix::uniform(9, 30, 40).on(&tracked).require_grad();
            let indices = random_indices(10, 200, 6, 30);
            let codes = SparseCodes {
                values: tv.clone(),
                indices: index_tensor(&indices, 200, 6, &tracked),
            };
            let grads = decode_sparse(codes, tw.clone()).square().sum().backward();
            [tv.grad(&grads).unwrap(), tw.grad(&grads).unwrap()].map(|gradient| {
                floats(gradient)
                    .into_iter()
                    .map(f32::to_bits)
                    .collect::<Vec<_>>()
            })
        };
        assert!(run() == run(), "two runs differ on {device:?}");
    }
}
