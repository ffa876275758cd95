use burn::tensor::{Device, Tensor, TensorData};
use lapidary_kernels::encode_topk;

use crate::reference::{
    Matrix, assert_close, assert_gradients, devices, floats, ints, pre_activations, random_shapes,
    ranked, state,
};

/// n, d, F, k: one latent, one row, k of 1 and of F, and sizes off every tile.
const SHAPES: [[usize; 4]; 9] = [
    [1, 1, 1, 1],
    [1, 3, 7, 1],
    [3, 5, 7, 7],
    [17, 9, 300, 4],
    [5, 33, 257, 257],
    [2, 8, 1500, 1100],
    [2, 4, 2100, 2100],
    [70, 16, 513, 32],
    [600, 8, 96, 5],
];

fn inputs(seed: u64, [n, d, latents, _]: [usize; 4]) -> [Matrix; 3] {
    [
        Matrix::integers(seed, n, d, 3),
        Matrix::integers(seed + 1, latents, d, 3),
        Matrix::integers(seed + 2, 1, latents, 3),
    ]
}

#[test]
fn topk_is_that_of_a_sorted_reference_ties_included() {
    for device in devices() {
        for shape in SHAPES.into_iter().chain(random_shapes(30)) {
            let [x, w_enc, b_enc] = inputs(1, shape);
            let k = shape[3];
            let codes = encode_topk(
                x.on(&device),
                w_enc.on(&device),
                b_enc.vector_on(&device),
                k,
                state(),
            );
            assert_eq!(codes.values.dims(), [x.rows, k]);
            let (values, indices) = (floats(codes.values), ints(codes.indices));
            for (row, pre) in pre_activations(&x, &w_enc, &b_enc).iter().enumerate() {
                let order = ranked(pre);
                for (place, &latent) in order[..k].iter().enumerate() {
                    let at = row * k + place;
                    assert_eq!(
                        (indices[at], f64::from(values[at])),
                        (latent as i32, pre[latent]),
                        "{shape:?} row {row} place {place} on {device:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn topk_ties_go_to_the_lower_index() {
    for device in devices() {
        let codes = encode_topk(
            Tensor::ones([2, 3], &device),
            Tensor::ones([700, 3], &device),
            Tensor::zeros([700], &device),
            40,
            state(),
        );
        let expected: Vec<i32> = (0..40).chain(0..40).collect();
        assert_eq!(ints(codes.indices), expected);
    }
}

/// Where tensor cores choose the candidates, they see 11 bits of each number: these have 12, and
/// scores that differ in the last one or not at all. Sums are exact in f32. Rows of all sizes, and
/// one latent that is infinite.
#[test]
fn numbers_with_more_digits_than_f16_holds_are_ranked_exactly() {
    let (mut x, mut w_enc) = (
        Matrix::integers(21, 24, 8, 4095),
        Matrix::integers(22, 5000, 8, 511),
    );
    let b_enc = Matrix::integers(23, 1, 5000, 3);
    for (row, numbers) in w_enc.numbers.chunks_mut(8).enumerate() {
        if row % 3 == 0 {
            let size = 2f32.powi(-(row as i32 % 5));
            numbers.iter_mut().for_each(|number| *number *= size);
        }
    }
    w_enc.numbers[8 * 77..8 * 78].fill(0.0);
    w_enc.numbers[8 * 77] = f32::INFINITY;
    for (row, numbers) in x.numbers.chunks_mut(8).enumerate() {
        // 0 times infinity is no number.
        numbers[0] = 1.0 + row as f32;
        let size = 2f32.powi([0, 40, -40][row % 3]);
        numbers.iter_mut().for_each(|number| *number *= size);
    }
    // A bias beside such sizes would round.
    let no_bias = Matrix::integers(23, 1, 5000, 0);
    for device in devices() {
        for (first, bias) in [(0, &b_enc), (1, &no_bias), (2, &no_bias)] {
            let numbers = x.numbers.chunks(8).skip(first).step_by(3).flatten();
            let part = Matrix {
                rows: 8,
                columns: 8,
                numbers: numbers.copied().collect(),
            };
            for k in [1, 32, 100] {
                let codes = encode_topk(
                    part.on(&device),
                    w_enc.on(&device),
                    bias.vector_on(&device),
                    k,
                    state(),
                );
                let (values, indices) = (floats(codes.values), ints(codes.indices));
                for (row, pre) in pre_activations(&part, &w_enc, bias).iter().enumerate() {
                    for (place, &latent) in ranked(pre)[..k].iter().enumerate() {
                        let at = row * k + place;
                        assert_eq!(
                            (indices[at], f64::from(values[at])),
                            (latent as i32, pre[latent]),
                            "row {row} of sizes {first}, place {place} of {k} on {device:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn topk_of_real_numbers_is_close_and_in_order() {
    for device in devices() {
        let (x, w_enc) = (Matrix::uniform(3, 40, 48), Matrix::uniform(4, 700, 48));
        let b_enc = Matrix::uniform(5, 1, 700);
        let k = 16;
        let codes = encode_topk(
            x.on(&device),
            w_enc.on(&device),
            b_enc.vector_on(&device),
            k,
            state(),
        );
        let (values, indices) = (floats(codes.values), ints(codes.indices));
        for (row, pre) in pre_activations(&x, &w_enc, &b_enc).iter().enumerate() {
            let order = ranked(pre);
            let best: Vec<f64> = order[..k].iter().map(|&latent| pre[latent]).collect();
            let found = &values[row * k..][..k];
            assert_close(found, &best, 1e-5);
            assert!(found.is_sorted_by(|a, b| a >= b));
            let named: Vec<f64> = indices[row * k..][..k]
                .iter()
                .map(|&latent| pre[latent as usize])
                .collect();
            assert_close(found, &named, 1e-5);
        }
    }
}

#[test]
fn more_latents_asked_for_than_there_are_gives_all_of_them() {
    for device in devices() {
        let [x, w_enc, b_enc] = inputs(6, [4, 3, 5, 0]);
        let codes = encode_topk(
            x.on(&device),
            w_enc.on(&device),
            b_enc.vector_on(&device),
            9,
            state(),
        );
        assert_eq!(codes.values.dims(), [4, 5]);
        assert_eq!(codes.indices.dims(), [4, 5]);
    }
}

#[test]
fn no_rows_give_no_codes() {
    for device in devices() {
        let codes = encode_topk(
            Tensor::zeros([0, 3], &device),
            Tensor::ones([6, 3], &device),
            Tensor::zeros([6], &device),
            2,
            state(),
        );
        assert_eq!(codes.values.dims(), [0, 2]);
        assert_eq!(codes.indices.dims(), [0, 2]);
        assert!(floats(codes.values).is_empty());
    }
}

#[test]
#[should_panic(expected = "k is 0")]
fn a_k_of_nought_is_refused() {
    let device = Device::flex();
    encode_topk(
        Tensor::zeros([1, 3], &device),
        Tensor::ones([6, 3], &device),
        Tensor::zeros([6], &device),
        0,
        state(),
    );
}

#[test]
#[should_panic(expected = "3 columns, but w_enc expects 4")]
fn widths_that_disagree_are_refused() {
    let device = Device::flex();
    encode_topk(
        Tensor::zeros([1, 3], &device),
        Tensor::ones([6, 4], &device),
        Tensor::zeros([6], &device),
        1,
        state(),
    );
}

#[test]
fn nan_counts_as_minus_infinity_and_minus_zero_as_zero() {
    for device in devices() {
        let bias = [
            f32::NAN,
            -0.0,
            0.0,
            f32::NEG_INFINITY,
            -1.0,
            f32::INFINITY,
            -0.0,
        ];
        let codes = encode_topk(
            Tensor::zeros([1, 2], &device),
            Tensor::zeros([7, 2], &device),
            Tensor::from_floats(bias, &device),
            7,
            state(),
        );
        assert_eq!(ints(codes.indices), [5, 1, 2, 6, 4, 0, 3], "{device:?}");
        let (up, down) = (f32::INFINITY, f32::NEG_INFINITY);
        assert_eq!(floats(codes.values), [up, 0.0, 0.0, 0.0, -1.0, down, down]);
    }
}

#[test]
fn scores_that_rise_fall_or_are_mostly_nan_are_ranked_too() {
    let latents = 1500;
    let rising: Vec<f32> = (0..latents).map(|latent| latent as f32).collect();
    let falling: Vec<f32> = rising.iter().map(|score| -score).collect();
    let mut rare = vec![f32::NAN; latents];
    rare[3] = f32::NEG_INFINITY;
    rare[700] = 2.0;
    rare[1499] = 3.0;
    for device in devices() {
        for scores in [&rising, &falling, &rare] {
            let clean: Vec<f64> = scores
                .iter()
                .map(|score| {
                    if score.is_nan() {
                        f64::NEG_INFINITY
                    } else {
                        f64::from(*score)
                    }
                })
                .collect();
            let expected: Vec<i32> = ranked(&clean).iter().map(|&latent| latent as i32).collect();
            for k in [1, 20, 300] {
                let codes = encode_topk(
                    Tensor::zeros([1, 2], &device),
                    Tensor::zeros([latents, 2], &device),
                    Tensor::from_data(TensorData::new(scores.clone(), [latents]), &device),
                    k,
                    state(),
                );
                assert_eq!(ints(codes.indices), expected[..k], "k {k} on {device:?}");
            }
        }
    }
}

#[test]
fn a_view_of_a_larger_tensor_encodes_like_a_copy() {
    for device in devices() {
        let [x, w_enc, b_enc] = inputs(7, [12, 6, 40, 0]);
        let (w_enc, b_enc) = (w_enc.on(&device), b_enc.vector_on(&device));
        let copy = Tensor::<2>::from_data(x.on(&device).slice([3..9, 0..6]).into_data(), &device);
        let of_copy = encode_topk(copy, w_enc.clone(), b_enc.clone(), 3, state());
        let of_view = encode_topk(
            x.on(&device).slice([3..9, 0..6]),
            w_enc.clone(),
            b_enc.clone(),
            3,
            state(),
        );
        assert_eq!(ints(of_copy.indices.clone()), ints(of_view.indices));
        let transposed = Tensor::<2>::from_data(w_enc.transpose().into_data(), &device).transpose();
        let of_transposed = encode_topk(
            x.on(&device).slice([3..9, 0..6]),
            transposed,
            b_enc,
            3,
            state(),
        );
        assert_eq!(ints(of_copy.indices), ints(of_transposed.indices));
    }
}

#[test]
fn gradients_are_those_of_the_dense_product() {
    for device in devices() {
        for shape in [[13, 6, 50, 4], [1, 3, 7, 1], [5, 4, 9, 9], [300, 2, 5, 2]] {
            let [n, d, latents, k] = shape;
            let [x, w_enc, b_enc] = inputs(8, shape);
            let weights = Matrix::integers(9, n, k, 4);
            let tracked = device.clone().autodiff();
            let tx = x.on(&tracked).require_grad();
            let tw = w_enc.on(&tracked).require_grad();
            let tb = b_enc.vector_on(&tracked).require_grad();
            let codes = encode_topk(tx.clone(), tw.clone(), tb.clone(), k, state());
            let indices = ints(codes.indices);
            let grads = (codes.values * weights.on(&tracked)).sum().backward();

            let mut dx = vec![0.0; n * d];
            let mut dw = vec![0.0; latents * d];
            let mut db = vec![0.0; latents];
            for row in 0..n {
                for j in 0..k {
                    let latent = indices[row * k + j] as usize;
                    let dv = weights.at(row, j);
                    db[latent] += dv;
                    for column in 0..d {
                        dx[row * d + column] += dv * w_enc.at(latent, column);
                        dw[latent * d + column] += dv * x.at(row, column);
                    }
                }
            }
            assert_close(&floats(tx.grad(&grads).unwrap()), &dx, 0.0);
            assert_close(&floats(tw.grad(&grads).unwrap()), &dw, 0.0);
            assert_close(&floats(tb.grad(&grads).unwrap()), &db, 0.0);
        }
    }
}

#[test]
fn gradients_match_finite_differences() {
    let (n, d, latents, k) = (3, 4, 12, 3);
    let tracked = Device::flex().autodiff();
    let (x, w_enc) = (Matrix::uniform(10, n, d), Matrix::uniform(11, latents, d));
    let b_enc = Matrix::uniform(12, 1, latents);
    // A loss that is not linear in the codes.
    let loss = |[x, w_enc, b_enc]: &[Matrix; 3]| -> f64 {
        let pre = pre_activations(x, w_enc, b_enc);
        pre.iter()
            .flat_map(|pre| {
                let order = ranked(pre);
                order[..k]
                    .iter()
                    .map(|&latent| pre[latent].powi(3))
                    .collect::<Vec<_>>()
            })
            .sum()
    };
    let tensors = [x.on(&tracked), w_enc.on(&tracked)].map(Tensor::require_grad);
    let [tx, tw] = tensors;
    let tb = b_enc.vector_on(&tracked).require_grad();
    let codes = encode_topk(tx.clone(), tw.clone(), tb.clone(), k, state());
    let grads = codes.values.powi_scalar(3).sum().backward();
    let found = [
        floats(tx.grad(&grads).unwrap()),
        floats(tw.grad(&grads).unwrap()),
        floats(tb.grad(&grads).unwrap()),
    ];
    assert_gradients(&found, &[x, w_enc, b_enc], loss);
}

#[test]
fn only_the_gradients_wanted_are_made() {
    for device in devices() {
        let tracked = device.clone().autodiff();
        let [x, w_enc, b_enc] = inputs(13, [4, 3, 8, 0]);
        let tb = b_enc.vector_on(&tracked).require_grad();
        let codes = encode_topk(x.on(&device), w_enc.on(&device), tb.clone(), 2, state());
        let grads = codes.values.sum().backward();
        let db = floats(tb.grad(&grads).unwrap());
        assert_eq!(db.iter().sum::<f32>(), 8.0);
    }
}

#[test]
fn the_same_input_gives_the_same_bits_with_any_number_of_threads() {
    let run = |device: &Device| {
        let tracked = device.clone().autodiff();
        let tx = Matrix::uniform(20, 530, 24).on(&tracked).require_grad();
        let tw = Matrix::uniform(21, 1100, 24).on(&tracked).require_grad();
        let tb = Matrix::uniform(22, 1, 1100)
            .vector_on(&tracked)
            .require_grad();
        let codes = encode_topk(tx.clone(), tw.clone(), tb.clone(), 9, state());
        let out = (floats(codes.values.clone()), ints(codes.indices));
        let grads = codes.values.square().sum().backward();
        let gradients = [
            floats(tx.grad(&grads).unwrap()),
            floats(tw.grad(&grads).unwrap()),
            floats(tb.grad(&grads).unwrap()),
        ];
        let bits = |floats: Vec<f32>| floats.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        (bits(out.0), out.1, gradients.map(bits))
    };
    let with_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| run(&Device::flex()))
    };
    let one = with_threads(1);
    for threads in [2, 3, 7] {
        assert!(
            with_threads(threads) == one,
            "{threads} threads differ from one"
        );
    }
    for device in devices() {
        assert!(
            run(&device) == run(&device),
            "two runs differ on {device:?}"
        );
    }
}
