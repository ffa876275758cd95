//! The parts of a transformer's forward pass against plain loops in f64; on the CPU alone, where
//! they exist. Inputs are columns in the middle of wider matrices, as a transformer hands them
//! over.

use burn::tensor::{Device, Tensor};
use lapidary_kernels::{
    Angles, CausalAttention, Nonlinearity, RowNorm, activate, causal_attention, fused_on,
    normalize_rows, rotate_heads, wide_product,
};
use std::sync::Arc;

use crate::reference::{Matrix, assert_close, floats};

/// Columns 3 to 3 + width of a matrix, as a tensor that shares its memory, and as numbers.
fn columns(seed: u64, rows: usize, width: usize, factor: f32) -> (Tensor<2>, Vec<Vec<f64>>) {
    let mut all = Matrix::uniform(seed, rows, width + 5);
    all.numbers.iter_mut().for_each(|x| *x *= factor);
    let rows = all.numbers.chunks(width + 5);
    let plain = rows.map(|row| row[3..3 + width].iter().map(|x| f64::from(*x)).collect());
    let plain = plain.collect();
    (all.on(&Device::flex()).narrow(1, 3, width), plain)
}

#[test]
fn the_cpu_alone_has_them() {
    assert!(fused_on(&Device::flex()));
    let tracked = Tensor::<1>::zeros([1], &Device::flex()).autodiff();
    assert!(!fused_on(&tracked.device()));
}

#[test]
fn rows_are_normalized() {
    for (n, d) in [(1, 1), (3, 31), (40, 64), (70, 1001)] {
        for (centred, biased) in [(true, true), (true, false), (false, false)] {
            let (x, rows) = columns(1, n, d, 3.0);
            let (weight, bias) = (Matrix::uniform(2, 1, d), Matrix::uniform(3, 1, d));
            let eps = 1e-3;
            let mut expected = vec![];
            for row in &rows {
                let mean = row.iter().sum::<f64>() / d as f64;
                let mean = if centred { mean } else { 0.0 };
                let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
                let scale = (square + f64::from(eps)).sqrt();
                for (i, x) in row.iter().enumerate() {
                    let bias = if biased {
                        f64::from(bias.numbers[i])
                    } else {
                        0.0
                    };
                    expected.push((x - mean) / scale * f64::from(weight.numbers[i]) + bias);
                }
            }
            let vector = |m: &Matrix| m.on(&Device::flex()).reshape([d]);
            let bias = biased.then(|| vector(&bias));
            let found = normalize_rows(x, vector(&weight), bias, RowNorm { centred, eps });
            assert_close(&floats(found), &expected, 2e-6);
        }
    }
}

#[test]
fn nonlinearities_and_gates() {
    type Function = fn(f64) -> f64;
    let functions: [(Nonlinearity, Function); 3] = [
        (Nonlinearity::Silu, |x| x / (1.0 + (-x).exp())),
        (Nonlinearity::GeluTanh, |x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }),
        (Nonlinearity::Relu, |x| x.max(0.0)),
    ];
    for (nonlinearity, function) in functions {
        let ((x, rows), (linear, linears)) = (columns(1, 37, 91, 12.0), columns(2, 37, 91, 2.0));
        let plain = rows.concat();
        let alone: Vec<f64> = plain.iter().map(|x| function(*x)).collect();
        assert_close(
            &floats(activate(x.clone(), None, nonlinearity)),
            &alone,
            4e-6,
        );
        let gated: Vec<f64> = alone
            .iter()
            .zip(linears.concat())
            .map(|(a, b)| a * b)
            .collect();
        let found = activate(x, Some(linear), nonlinearity);
        assert_close(&floats(found), &gated, 8e-6);
        let far = Tensor::<2>::from_floats([[-1e4, 1e4, 0.0, f32::NAN]], &Device::flex());
        let far = floats(activate(far, None, nonlinearity));
        assert!(
            far[0].abs() < 1e-30 && far[1] == 1e4 && far[2] == 0.0,
            "{far:?}"
        );
        assert!(far[3].is_nan(), "{nonlinearity:?}");
    }
}

#[test]
fn wide_products() {
    for (n, d, m) in [(1, 1, 1), (3, 7, 513), (130, 20, 1100), (257, 3, 40)] {
        let ((x, rows), (w, others)) = (columns(1, n, d, 1.0), columns(2, m, d, 1.0));
        let dot = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| a * b).sum();
        let expected = rows
            .iter()
            .flat_map(|a| others.iter().map(move |b| dot(a, b)));
        let expected: Vec<f64> = expected.collect();
        assert_close(&floats(wide_product(x, w)), &expected, 2e-6);
    }
}

#[test]
fn heads_turn_by_the_angles_of_their_positions() {
    for (n, heads, d_head, dims, positions) in
        [(6, 3, 10, 4, 3), (14, 2, 64, 64, 7), (5, 1, 2, 2, 5)]
    {
        let half = dims / 2;
        let (x, rows) = columns(1, n, heads * d_head, 1.0);
        let angle = |p: usize, i: usize| 0.7 * p as f64 + 0.3 * (p * i) as f64;
        let table = |f: fn(f64) -> f64| {
            let all = (0..positions).flat_map(|p| (0..half).map(move |i| f(angle(p, i)) as f32));
            all.collect()
        };
        let angles = Angles {
            cos: table(f64::cos),
            sin: table(f64::sin),
            dims,
        };
        let mut expected = vec![];
        for (r, row) in rows.iter().enumerate() {
            for (at, x) in row.iter().enumerate() {
                let i = at % d_head;
                let (sin, cos) = angle(r % positions, i % half.max(1)).sin_cos();
                expected.push(match i {
                    i if i < half => x * cos - row[at + half] * sin,
                    i if i < dims => x * cos + row[at - half] * sin,
                    _ => *x,
                });
            }
        }
        let found = rotate_heads(x, d_head, Arc::new(angles));
        assert_close(&floats(found), &expected, 2e-6);
    }
}

#[test]
fn attention_sees_from_each_first_key_to_the_own_one() {
    // batch, queries, keys, heads, key-value heads, d_head; windows, soft cap
    for (seed, ([batch, queries, keys, heads, kv_heads, d], window, soft_cap)) in [
        ([1, 1, 1, 1, 1, 1], None, None),
        ([2, 19, 19, 4, 2, 10], None, None),
        ([2, 150, 150, 3, 1, 16], None, Some(1.5)),
        ([1, 130, 130, 2, 2, 8], Some(70), None),
        ([3, 67, 67, 6, 2, 5], Some(4), Some(0.7)),
        ([2, 3, 90, 2, 1, 7], Some(33), None),
    ]
    .into_iter()
    .enumerate()
    {
        let seed = seed as u64;
        let (q, qs) = columns(seed, batch * queries, heads * d, 2.0);
        let (k, ks) = columns(seed + 50, batch * keys, kv_heads * d, 2.0);
        let (v, vs) = columns(seed + 90, batch * keys, kv_heads * d, 1.0);
        let scale = 0.9;
        let own = |i: usize| keys - queries + i;
        // Of every sequence but the first, queries beyond the 5th begin a document of their own.
        let first = |b: usize, i: usize| {
            let from = window.map_or(0, |w: usize| (own(i) + 1).saturating_sub(w));
            let document = if b > 0 && i >= 5 { own(5) } else { 0 };
            from.max(document)
        };
        let mut expected = vec![];
        for b in 0..batch {
            for i in 0..queries {
                for h in 0..heads {
                    let at = h / (heads / kv_heads) * d;
                    let q = &qs[b * queries + i][h * d..(h + 1) * d];
                    let seen = first(b, i)..own(i) + 1;
                    let score = |j: usize| {
                        let k = &ks[b * keys + j][at..at + d];
                        let s = q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * scale;
                        soft_cap.map_or(s, |cap: f64| cap * (s / cap).tanh())
                    };
                    let weights: Vec<f64> = seen.clone().map(|j| score(j).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for c in 0..d {
                        let z = seen.clone().zip(&weights);
                        let z = z.map(|(j, w)| w * vs[b * keys + j][at + c]).sum::<f64>();
                        expected.push(z / total);
                    }
                }
            }
        }
        let all = (0..batch).flat_map(|b| (0..queries).map(move |i| first(b, i) as u32));
        let how = |first: Option<Arc<[u32]>>| CausalAttention {
            batch,
            d_head: d,
            scale: scale as f32,
            soft_cap: soft_cap.map(|cap| cap as f32),
            first,
        };
        let found = causal_attention(q.clone(), k.clone(), v.clone(), how(Some(all.collect())));
        assert_close(&floats(found), &expected, 4e-6);
        // One sequence's first keys serve all alike.
        if batch == 1 {
            let shared = (0..queries).map(|i| first(0, i) as u32).collect();
            let shared = (window.is_some()).then_some(shared);
            let found = causal_attention(q, k, v, how(shared));
            assert_close(&floats(found), &expected, 4e-6);
        }
    }
}

#[test]
#[should_panic(expected = "first key comes after its own position")]
fn a_query_that_sees_nothing_is_refused() {
    let x = || Tensor::<2>::ones([2, 4], &Device::flex());
    let how = CausalAttention {
        batch: 1,
        d_head: 4,
        scale: 1.0,
        soft_cap: None,
        first: Some([0, 2].into()),
    };
    causal_attention(x(), x(), x(), how);
}
