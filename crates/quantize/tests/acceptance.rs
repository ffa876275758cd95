//! Errors of quantized numbers: bounds that always hold, figures on normal numbers, and cases that
//! NumPy computed from the formulas.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use lapidary_quantize::{
    Bits, Calibration, Granularity, QuantizeError, QuantizedMatrix, Scheme, Symmetry,
    dequantize_row, quantize_row,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const INT8: Scheme = Scheme::per_row(Bits::Eight);
const INT4: Scheme = Scheme::per_row(Bits::Four);
const INT4_G32: Scheme = Scheme {
    granularity: Granularity::Group32,
    ..INT4
};

fn normal(random: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

fn normals(n: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| normal(&mut random)).collect()
}

fn back(values: &[f32], shape: [usize; 2], scheme: Scheme) -> Vec<f32> {
    let quantized = QuantizedMatrix::quantize(values, shape, scheme).unwrap();
    quantized.dequantize()
}

fn schemes() -> impl Iterator<Item = Scheme> {
    let all = [Bits::Eight, Bits::Four].into_iter().flat_map(|bits| {
        [Symmetry::Symmetric, Symmetry::Asymmetric].map(|symmetry| (bits, symmetry))
    });
    all.flat_map(|(bits, symmetry)| {
        [None, Some(32), Some(64), Some(128)].map(|group| Scheme {
            bits,
            symmetry,
            granularity: Granularity::new(group).unwrap(),
            calibration: Calibration::MinMax,
        })
    })
}

fn codes(quantized: &QuantizedMatrix) -> Vec<i8> {
    let [rows, columns] = quantized.shape();
    let width = quantized.scheme().bits.row_bytes(columns);
    let mut all = vec![];
    for row in 0..rows {
        let bytes = &quantized.codes()[row * width..][..width];
        let mut codes = vec![0; columns];
        match quantized.scheme().bits {
            Bits::Eight => codes = bytes.iter().map(|byte| *byte as i8).collect(),
            Bits::Four => lapidary_quantize::unpack_int4(bytes, &mut codes),
        }
        all.extend(codes);
    }
    all
}

#[test]
fn no_number_moves_by_more_than_half_a_scale() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for scheme in schemes() {
        for columns in [1, 2, 31, 32, 33, 100, 256] {
            let size = 10.0_f32.powi(random.random_range(-20..20));
            let shift = random.random_range(-2.0..2.0);
            let shape = [7, columns];
            let values: Vec<f32> = (0..7 * columns)
                .map(|_| size * (normal(&mut random) + shift))
                .collect();
            let quantized = QuantizedMatrix::quantize(&values, shape, scheme).unwrap();
            let group = scheme.granularity.group().unwrap_or(columns);
            let groups = scheme.granularity.groups(columns);
            assert_eq!(groups, columns.div_ceil(group));
            for (at, (x, y)) in values.iter().zip(quantized.dequantize()).enumerate() {
                let (row, column) = (at / columns, at % columns);
                let scale = quantized.scales()[row * groups + column / group];
                // The quotient is rounded too, by 2⁻²³ of at most 128.
                assert!(
                    (x - y).abs() <= scale * 0.500_04,
                    "{scheme:?}: {x} came back as {y}, scale {scale}"
                );
            }
        }
    }
}

#[test]
fn zeros_come_back_as_zeros() {
    for scheme in schemes() {
        assert_eq!(back(&[0.0; 70], [2, 35], scheme), [0.0; 70]);
        let mixed = [0.0, 5.0, 0.0, 3.0, -1.0];
        let found = back(&mixed, [1, 5], scheme);
        assert_eq!((found[0], found[2]), (0.0, 0.0), "{scheme:?}");
    }
}

/// Scales without a finite inverse, down to the smallest f32.
#[test]
fn tiny_numbers_keep_their_bound() {
    for scheme in schemes() {
        for exponent in -42..-36 {
            let values = [0.0, 5.0, 0.0, 3.0, -1.0].map(|x| x * 10.0_f32.powi(exponent));
            let quantized = QuantizedMatrix::quantize(&values, [1, 5], scheme).unwrap();
            // The scale and the product are rounded to multiples of the smallest f32.
            let (scale, least) = (quantized.scales()[0], f32::from_bits(1));
            for (x, y) in values.iter().zip(quantized.dequantize()) {
                assert!(
                    (x - y).abs() <= 0.501 * scale + 130.0 * least,
                    "{scheme:?}: {x:e} came back as {y:e}, scale {scale:e}"
                );
                assert!(*x != 0.0 || y == 0.0, "{scheme:?}: 0 came back as {y:e}");
            }
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Mean and least cosine between 2,048 normal rows of 256 numbers and what comes back.
fn cosines(scheme: Scheme) -> (f64, f64) {
    let (rows, d) = (2048, 256);
    let values = normals(rows * d, 2);
    let found = back(&values, [rows, d], scheme);
    let each = values.chunks(d).zip(found.chunks(d));
    let each: Vec<f64> = each.map(|(a, b)| cosine(a, b)).collect();
    let mean = each.iter().sum::<f64>() / rows as f64;
    (mean, each.into_iter().fold(1.0, f64::min))
}

#[test]
fn rows_of_normal_numbers_keep_their_direction() {
    let (mean, least) = cosines(INT8);
    println!("int8 per row: mean {mean:.6}, least {least:.6}");
    assert!((mean - 0.99998).abs() < 1e-5, "{mean}");
    assert!(least > 0.9999, "{least}");
    let (mean, _) = cosines(INT4_G32);
    println!("int4 in groups of 32: mean {mean:.6}");
    assert!((mean - 0.9953).abs() < 5e-4, "{mean}");
    let (mean, _) = cosines(INT4);
    println!("int4 per row: mean {mean:.6}");
    assert!((mean - 0.9921).abs() < 5e-4, "{mean}");
}

/// The latents with the k largest pre-activations of each row of `x`.
fn top_k(w_enc: &[f32], x: &[f32], d: usize, k: usize) -> Vec<HashSet<usize>> {
    let support = |x: &[f32]| {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        let mut scores: Vec<(usize, f32)> = w_enc.chunks(d).map(dot).enumerate().collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        scores[..k].iter().map(|(latent, _)| *latent).collect()
    };
    x.chunks(d).map(support).collect()
}

/// An encoder of 2,048 random rows of 256 numbers with norm 1: the mean Jaccard index between the
/// 32 latents that it chooses for an input and those that the quantized encoder chooses. In int8,
/// in int4 in groups of 32, and in int4 per row.
fn support_jaccard(inputs: impl FnOnce(&[f32]) -> Vec<f32>) -> [f64; 3] {
    let (d_sae, d, k) = (2048, 256, 32);
    let mut w_enc = normals(d_sae * d, 3);
    for row in w_enc.chunks_mut(d) {
        let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
        row.iter_mut().for_each(|w| *w /= norm);
    }
    let x = inputs(&w_enc);
    let before = top_k(&w_enc, &x, d, k);
    [INT8, INT4_G32, INT4].map(|scheme| {
        let after = top_k(&back(&w_enc, [d_sae, d], scheme), &x, d, k);
        let each = before.iter().zip(&after);
        let each = each.map(|(a, b)| a.intersection(b).count() as f64 / a.union(b).count() as f64);
        each.sum::<f64>() / before.len() as f64
    })
}

/// Scores of normal inputs are normal. With F latents, let z be the threshold that k of F normal
/// numbers exceed, and σ the error of a score of standard deviation 1, which follows from the
/// cosine c of the rows: σ² = 1 / c² − 1. Then F φ(z) σ / √(2π) of the k latents are expected to
/// change.
#[test]
fn a_quantized_encoder_changes_as_many_latents_as_expected_on_normal_inputs() {
    let found = support_jaccard(|_| normals(512 * 256, 4));
    println!("support Jaccard on normal inputs: int8, int4 g32, int4 per row: {found:.4?}");
    assert!(found[0] >= 0.97, "int8: {}", found[0]);
    let (d_sae, k, z) = (2048.0, 32.0, 2.153_9_f64);
    let tau = std::f64::consts::TAU;
    for (found, cosine) in found.into_iter().zip([0.999_976, 0.995_36, 0.992_15_f64]) {
        let sigma = (cosine.powi(-2) - 1.0).sqrt();
        let changed = d_sae * (-z * z / 2.0).exp() / tau * sigma;
        let expected = (k - changed) / (k + changed);
        assert!((found - expected).abs() < 0.01, "{found} for {expected}");
    }
}

/// Sums of 32 rows of the encoder with exponential values. A reference run, whose inputs are not
/// recorded, found 0.986, 0.866 and 0.831, which normal inputs do not give.
#[test]
fn a_quantized_encoder_finds_nearly_the_same_latents_in_sums_of_them() {
    let found = support_jaccard(|w_enc| {
        let mut random = ChaCha8Rng::seed_from_u64(8);
        let mut x = vec![0.0; 512 * 256];
        for x in x.chunks_mut(256) {
            for _ in 0..32 {
                let value = -(1.0 - random.random::<f32>()).ln();
                let row = &w_enc[random.random_range(0..2048) * 256..][..256];
                x.iter_mut().zip(row).for_each(|(x, w)| *x += value * w);
            }
        }
        x
    });
    println!("support Jaccard on sums of latents: int8, int4 g32, int4 per row: {found:.4?}");
    assert!(found[0] >= 0.97, "int8: {}", found[0]);
    for (found, reference) in found.into_iter().zip([0.986, 0.866, 0.831]) {
        assert!((found - reference).abs() < 0.02, "{found} for {reference}");
    }
}

#[test]
fn searching_the_range_never_increases_the_squared_error() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let error = |values: &[f32], scheme| -> f64 {
        let found = back(values, [1, values.len()], scheme);
        let each = values.iter().zip(found);
        each.map(|(x, y)| (f64::from(*x) - f64::from(y)).powi(2))
            .sum()
    };
    let mut lower = 0;
    for scheme in schemes() {
        for _ in 0..20 {
            let columns = random.random_range(1..200);
            let heavy = |random: &mut ChaCha8Rng| normal(random).powi(3);
            let values: Vec<f32> = (0..columns).map(|_| heavy(&mut random)).collect();
            let searched = Scheme {
                calibration: Calibration::Mse,
                ..scheme
            };
            let (whole, searched) = (error(&values, scheme), error(&values, searched));
            assert!(searched <= whole, "{scheme:?}: {searched} after {whole}");
            lower += usize::from(searched < whole);
        }
    }
    assert!(lower > 100, "{lower} of 320 are lower");
}

/// Numbers, bits, symmetry, scale, zero point, integers, and what these stand for.
type Case = ([f32; 6], Bits, Symmetry, f32, i8, [i8; 6], [f32; 6]);

/// As `np.clip(np.round(x / S) + Z, qmin, qmax)` and `S * (q - Z)` give them in f32.
#[test]
fn integers_are_those_of_the_formulas_in_numpy() {
    use Bits::{Eight, Four};
    use Symmetry::{Asymmetric, Symmetric};
    let mixed = [0.5, -1.25, 3.0, -0.007_812_5, 2.2, -2.9];
    let halves = [127.0, -63.5, 0.5, 1.5, 2.5, -126.5];
    let positive = [0.1, 0.7, 1.9, 2.3, 0.05, 1.1];
    let negative = [-4.0, -3.0, -2.5, -0.1, -1.0, -0.6];
    #[rustfmt::skip]
    let cases: [Case; 10] = [
        (mixed, Eight, Symmetric, 0.023_622_047, 0, [21, -53, 127, 0, 93, -123], [0.496_063, -1.251_968_5, 3.0, 0.0, 2.196_850_3, -2.905_512]),
        (halves, Eight, Symmetric, 1.0, 0, [127, -64, 0, 2, 2, -126], [127.0, -64.0, 0.0, 2.0, 2.0, -126.0]),
        (negative, Eight, Symmetric, 0.031_496_063, 0, [-127, -95, -79, -3, -32, -19], [-4.0, -2.992_126, -2.488_189, -0.094_488_19, -1.007_874, -0.598_425_2]),
        (mixed, Eight, Asymmetric, 0.023_137_255, -3, [19, -57, 127, -3, 92, -128], [0.509_019_6, -1.249_411_7, 3.007_843, 0.0, 2.198_039_3, -2.892_156_8]),
        (halves, Eight, Asymmetric, 0.994_117_6, -1, [127, -65, 0, 1, 2, -128], [127.247_055, -63.623_53, 0.994_117_6, 1.988_235_2, 2.982_352_7, -126.252_94]),
        (positive, Eight, Asymmetric, 0.009_019_608, -128, [-117, -50, 83, 127, -122, -6], [0.099_215_69, 0.703_529_4, 1.903_137_2, 2.3, 0.054_117_646, 1.100_392_1]),
        (negative, Eight, Asymmetric, 0.015_686_275, 127, [-128, -64, -32, 121, 63, 89], [-4.0, -2.996_078_5, -2.494_117_7, -0.094_117_66, -1.003_921_6, -0.596_078_46]),
        (mixed, Four, Symmetric, 0.428_571_43, 0, [1, -3, 7, 0, 5, -7], [0.428_571_43, -1.285_714_3, 3.0, 0.0, 2.142_857, -3.0]),
        (mixed, Four, Asymmetric, 0.393_333_35, -1, [0, -4, 7, -1, 5, -8], [0.393_333_35, -1.180_000_1, 3.146_666_8, 0.0, 2.360_000_1, -2.753_333_3]),
        (positive, Four, Asymmetric, 0.153_333_34, -8, [-7, -3, 4, 7, -8, -1], [0.153_333_34, 0.766_666_65, 1.84, 2.3, 0.0, 1.073_333_4]),
    ];
    for (values, bits, symmetry, scale, zero, integers, expected) in cases {
        let scheme = Scheme {
            symmetry,
            ..Scheme::per_row(bits)
        };
        let found = QuantizedMatrix::quantize(&values, [1, 6], scheme).unwrap();
        assert_eq!(found.scales(), [scale], "{values:?}");
        match symmetry {
            Symmetric => assert!(found.zeros().is_empty()),
            Asymmetric => assert_eq!(found.zeros(), [zero], "{values:?}"),
        }
        assert_eq!(codes(&found), integers, "{scheme:?} of {values:?}");
        for (x, y) in found.dequantize().iter().zip(expected) {
            assert!((x - y).abs() <= 1e-6 * y.abs(), "{x} for {y}");
        }
    }
}

/// The best of the shares of 4 is 0.98, as a loop in NumPy finds.
#[test]
fn the_searched_range_is_that_of_a_loop_in_numpy() {
    let values = [0.1, -0.2, 0.3, 0.15, -0.05, 0.25, -0.3, 4.0];
    let scheme = Scheme {
        calibration: Calibration::Mse,
        ..INT4
    };
    let found = QuantizedMatrix::quantize(&values, [1, 8], scheme).unwrap();
    assert_eq!(codes(&found), [0, 0, 1, 0, 0, 0, -1, 7]);
    assert!((found.scales()[0] - 0.56).abs() < 1e-6);
    let back = found.dequantize();
    let errors = values
        .iter()
        .zip(back)
        .map(|(x, y)| f64::from(x - y).powi(2));
    assert!((errors.sum::<f64>() - 0.279_099_981).abs() < 1e-6);
}

#[test]
fn each_group_has_its_own_scale_and_the_last_may_be_short() {
    let values: Vec<f32> = (0..70).map(|i| if i < 64 { 1.0 } else { 7.0 }).collect();
    let found = QuantizedMatrix::quantize(&values, [1, 70], INT4_G32).unwrap();
    assert_eq!(found.scales(), [1.0 / 7.0, 1.0 / 7.0, 1.0]);
    assert_eq!(found.codes(), [0x77; 35]);
    assert_eq!(found.dequantize()[69], 7.0);
}

#[test]
fn a_row_alone_is_the_row_of_a_matrix() {
    let values = normals(300, 6);
    let mut bytes = [0; 300];
    let scale = quantize_row(&values, &mut bytes).unwrap();
    let matrix = QuantizedMatrix::quantize(&values, [1, 300], INT8).unwrap();
    assert_eq!(
        (matrix.codes(), matrix.scales()),
        (&bytes[..], &[scale][..])
    );
    let mut found = [0.0; 300];
    dequantize_row(&bytes, scale, &mut found);
    assert_eq!(matrix.dequantize(), found);
}

#[test]
fn numbers_that_are_not_finite_are_refused_with_their_place() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = [1.0; 12];
        values[9] = value;
        let error = QuantizedMatrix::quantize(&values, [3, 4], INT4).unwrap_err();
        let expected = format!("found {value} at row 2, column 1, expected finite numbers");
        assert_eq!(error.to_string(), expected);
        assert!(quantize_row(&values, &mut [0; 12]).is_err());
    }
    for scheme in schemes() {
        // The largest numbers are quantized, or refused where their integers would be infinite.
        let found = QuantizedMatrix::quantize(&[f32::MAX, f32::MIN], [1, 2], scheme);
        let is_right = match &found {
            Ok(found) => found.dequantize().iter().all(|x| x.is_finite()),
            Err(error) => matches!(error, QuantizeError::TooLarge { column: 0, .. }),
        };
        assert!(is_right, "{found:?}");
    }
    let error = QuantizedMatrix::quantize(&[1.0; 5], [2, 3], INT8).unwrap_err();
    assert_eq!(error.to_string(), "found 5 values, expected 6");
    let error = quantize_row(&[1.0; 5], &mut [0; 4]).unwrap_err();
    assert_eq!(error.to_string(), "found 4 bytes for a row, expected 5");
}

/// Integers, scales and zero points.
type Parts = (Vec<u8>, Vec<f32>, Vec<i8>);

#[test]
fn stored_parts_make_the_matrix_again_or_an_error() {
    let shape = [3, 35];
    for scheme in schemes() {
        let made = QuantizedMatrix::quantize(&normals(105, 7), shape, scheme).unwrap();
        let parts = || {
            let (codes, scales, zeros) = (made.codes(), made.scales(), made.zeros());
            (codes.to_vec(), scales.to_vec(), zeros.to_vec())
        };
        let read = |(codes, scales, zeros): Parts| {
            let read = QuantizedMatrix::from_parts(scheme, shape, codes, scales, zeros);
            read.map_err(|error| error.to_string())
        };
        assert_eq!(read(parts()), Ok(made.clone()));
        let refused = |change: &dyn Fn(&mut Parts)| {
            let mut changed = parts();
            change(&mut changed);
            read(changed).unwrap_err()
        };
        let bytes = made.codes().len();
        assert_eq!(
            refused(&|p| p.0.truncate(bytes - 1)),
            format!("found {} bytes of integers, expected {bytes}", bytes - 1)
        );
        assert!(refused(&|p| p.1.push(1.0)).contains("scales, expected"));
        assert!(refused(&|p| p.2.push(0)).contains("zero points, expected"));
        for scale in [f32::NAN, -1.0, f32::INFINITY, f32::MAX] {
            let error = refused(&|p| p.1[1] = scale);
            assert!(
                error.starts_with(&format!("found {scale} at row ")),
                "{error}"
            );
        }
        if scheme.symmetry == Symmetry::Symmetric {
            // The least integer of so many bits stands for nothing.
            let error = refused(&|p| p.0[0] = if bytes == 105 { 0x80 } else { 0x08 });
            let expected = match scheme.bits {
                Bits::Eight => "found -128 at row 0, column 0, expected -127 to 127",
                Bits::Four => "found -8 at row 0, column 0, expected -7 to 7",
            };
            assert_eq!(error, expected);
        }
        if scheme.bits == Bits::Four {
            let error = refused(&|p| p.0[bytes - 1] |= 0x30);
            assert!(
                error.starts_with("found 3 in the unused upper half of the last byte of row 2"),
                "{error}"
            );
            if scheme.symmetry == Symmetry::Asymmetric {
                let error = refused(&|p| p.2[0] = 8);
                assert!(error.ends_with("group 0, expected -8 to 7"), "{error}");
            }
        }
    }
}
