//! A dictionary with known numbers.

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{Architecture, Dictionary, Provenance, Sites, SparseCoder, Weights};

pub const D: usize = 4;
pub const F: usize = 6;

pub fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| ((i * 37 + seed * 11) % 64) as f32 / 16.0 - 2.0)
        .collect()
}

pub fn dictionary(architecture: Architecture) -> Dictionary {
    let device = Device::flex();
    let matrix =
        |seed| Tensor::<2>::from_data(TensorData::new(numbers(F * D, seed), [F, D]), &device);
    let vector =
        |n: usize, seed| Tensor::<1>::from_data(TensorData::new(numbers(n, seed), [n]), &device);
    let mut weights = Weights::new([
        ("w_enc", matrix(1).into()),
        ("b_enc", vector(F, 2).into()),
        ("w_dec", matrix(3).into()),
        ("b_dec", vector(D, 4).into()),
    ]);
    if architecture == Architecture::JumpRelu {
        weights = weights.with("threshold", vector(F, 5).abs());
    }
    if architecture == Architecture::Gated {
        weights = Weights::new([
            ("w_enc", matrix(1).into()),
            ("b_gate", vector(F, 2).into()),
            ("b_mag", vector(F, 5).into()),
            ("r_mag", (vector(F, 6) / 4.0).into()),
            ("w_dec", matrix(3).into()),
            ("b_dec", vector(D, 4).into()),
        ]);
    }
    if let Architecture::MatchingPursuit { .. } = architecture {
        weights = Weights::new([("w_dec", matrix(3).into()), ("b_dec", vector(D, 4).into())]);
    }
    Dictionary {
        coder: SparseCoder {
            architecture,
            apply_b_dec_to_input: true,
            weights,
        }
        .into(),
        provenance: Provenance {
            model_name: Some("gpt2".into()),
            sites: Sites::autoencoder("blocks.2.hook_resid_post"),
            context: Some(128),
            prepend_bos: Some(true),
            corpus: Some("text.parquet".into()),
            steps: Some(7),
            tokens: Some(700),
            normalization: Some("unit_norm".into()),
            ..Default::default()
        },
    }
}

pub fn host<const N: usize>(t: &Tensor<N>) -> Vec<f32> {
    t.clone().try_into_vec_as().unwrap()
}
