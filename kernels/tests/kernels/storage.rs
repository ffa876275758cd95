//! Numbers stored in 16 bits give what the same numbers give in 32.

use burn::tensor::{Device, FloatDType, Tensor};
use lapidary_kernels::{
    Pursuit, SparseCodes, decode_sparse, encode_batch_topk, encode_threshold, encode_topk, pursue,
    pursuit_gradient, reconstruct,
};

use crate::reference::{Matrix, floats, ints, state};

/// Everything that the operations make of these inputs, one after the other.
fn all(x: Tensor<2>, w: Tensor<2>, b: Tensor<1>, b_dec: Tensor<1>) -> Vec<f32> {
    let mut out = vec![];
    let mut take = |codes: &SparseCodes| {
        out.extend(floats(codes.values.clone()));
        out.extend(ints(codes.indices.clone()).into_iter().map(|i| i as f32));
    };
    let codes = encode_topk(x.clone(), w.clone(), b.clone(), 5, state());
    take(&codes);
    take(&encode_batch_topk(x.clone(), w.clone(), b.clone(), 5, state()).codes);
    take(&encode_threshold(
        x.clone(),
        w.clone(),
        b.clone(),
        b.clone().abs(),
    ));
    out.extend(floats(decode_sparse(codes.clone(), w.clone())));
    let reconstruction = reconstruct(&codes, w.clone(), b_dec, x.clone());
    out.extend(floats(reconstruction.error));
    out.extend(floats(reconstruction.along));
    for refit in [false, true] {
        let how = Pursuit {
            refit,
            ..Pursuit::PLAIN
        };
        let pursued = pursue(x.clone(), w.clone() * 0.25, 4, &how, state());
        out.extend(floats(pursued.residual.clone()));
        let (to_atoms, to_starts) = pursuit_gradient(&pursued, w.clone() * 0.25, refit, 1.0);
        out.extend(floats(to_atoms));
        out.extend(floats(to_starts));
    }
    out
}

#[test]
fn sixteen_bits_give_what_the_same_numbers_give_in_thirty_two() {
    // WGPU has neither type; on the CPU both are there.
    let device = Device::flex();
    for dtype in [FloatDType::BF16, FloatDType::F16] {
        let short =
            |seed, rows, columns| Matrix::uniform(seed, rows, columns).on(&device).cast(dtype);
        let (x, w) = (short(1, 70, 40), short(2, 130, 40));
        let b = short(3, 1, 130).reshape([130]);
        let b_dec = short(4, 1, 40).reshape([40]);
        let wide = FloatDType::F32;
        let expected = all(
            x.clone().cast(wide),
            w.clone().cast(wide),
            b.clone().cast(wide),
            b_dec.clone().cast(wide),
        );
        assert_eq!(all(x, w, b, b_dec), expected, "{dtype:?}");
    }
}
