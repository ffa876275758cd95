//! Attribution graphs of small random models with random transcoders: values are the sums of edges
//! and biases, and an edge is what a frozen run says.

#![allow(clippy::unwrap_used)]

mod attention;
mod edges;
mod graphs;
mod interventions;
mod paths;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_circuits::CircuitError;
use lapidary_circuits::attribution_graph::{
    AttributionGraph, AttributionOptions, ChangedFeature, EdgeEnd, FeatureChange, GraphNames, Node,
    PathNode, PathOptions, Propagation, Pruning, ReplacementModel, ScorePart, Step,
};
use lapidary_coder::{
    AnyCoder, Architecture, Coder, CrossLayerTranscoder, Dictionary, Provenance, SKIP, Sites,
    SparseCoder, Weights,
};
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention, LanguageModel};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

const LATENTS: usize = 40;
const TOKENS: [u32; 7] = [1, 9, 4, 4, 17, 30, 2];

fn model(name: &str) -> LanguageModel {
    let folder = format!(
        "{}/../../tests/fixtures/models/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    LanguageModel::load(&folder, &Device::flex()).unwrap()
}

fn random(rng: &mut ChaCha8Rng, shape: [usize; 2]) -> Tensor<2> {
    let values = (0..shape[0] * shape[1]).map(|_| rng.random::<f32>() - 0.5);
    let values: Vec<f32> = values.collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// What a set of transcoders is like.
#[derive(Clone, Copy)]
struct Kind {
    from: BlockHook,
    to: BlockHook,
    architecture: Architecture,
    skip: bool,
    b_dec_to_input: bool,
}

const PLAIN: Kind = Kind {
    from: BlockHook::Ln2,
    to: BlockHook::MlpOut,
    architecture: Architecture::TopK { k: 5 },
    skip: false,
    b_dec_to_input: false,
};

fn coder(rng: &mut ChaCha8Rng, kind: Kind, d: usize, written: usize) -> SparseCoder {
    let mut weights = Weights::new([
        ("w_enc", random(rng, [LATENTS, d]).into()),
        (
            "b_enc",
            random(rng, [LATENTS, 1]).squeeze_dim::<1>(1).into(),
        ),
        ("w_dec", random(rng, [LATENTS, written]).into()),
        (
            "b_dec",
            random(rng, [written, 1]).squeeze_dim::<1>(1).into(),
        ),
    ]);
    if kind.architecture == Architecture::JumpRelu {
        let threshold = random(rng, [LATENTS, 1]).squeeze_dim::<1>(1).abs();
        weights = weights.with("threshold", threshold);
    }
    if kind.skip {
        weights = weights.with(SKIP, random(rng, [d, d]));
    }
    SparseCoder {
        architecture: kind.architecture,
        apply_b_dec_to_input: kind.b_dec_to_input,
        weights,
    }
}

fn dictionary(coder: impl Into<AnyCoder>, sites: Sites) -> Dictionary {
    Dictionary {
        coder: coder.into(),
        provenance: Provenance {
            sites,
            ..Default::default()
        },
    }
}

fn site(l: usize, hook: BlockHook) -> String {
    HookPoint::Block(l, hook).to_string()
}

fn per_layer(model: &LanguageModel, kind: Kind) -> Vec<(String, Dictionary)> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let d = model.config().d_model;
    let of = |l| {
        let sites = Sites::transcoder(site(l, kind.from), site(l, kind.to));
        (
            format!("layer {l}"),
            dictionary(coder(&mut rng, kind, d, d), sites),
        )
    };
    (0..model.config().n_layers()).map(of).collect()
}

fn cross_layer(model: &LanguageModel, kind: Kind) -> Vec<(String, Dictionary)> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (n, d) = (model.config().n_layers(), model.config().d_model);
    let layers = (0..n).map(|l| coder(&mut rng, kind, d, (n - l) * d));
    let layers = layers.collect();
    let b_dec = random(&mut rng, [n * d, 1]).squeeze_dim(1);
    let sites = Sites::CrossLayer {
        from: (0..n).map(|l| site(l, kind.from)).collect(),
        to: (0..n).map(|l| site(l, kind.to)).collect(),
    };
    let coder = CrossLayerTranscoder::new(layers, b_dec);
    vec![("all".into(), dictionary(coder, sites))]
}

fn graph(model: &LanguageModel, transcoders: Vec<(String, Dictionary)>) -> AttributionGraph {
    let replacement = ReplacementModel::new(model, transcoders).unwrap();
    let options = AttributionOptions::default();
    replacement
        .attribute(&TOKENS, &options, &|_, _| {})
        .unwrap()
}

/// The largest difference between a node's value and what it is made of, by its magnitude.
fn unexplained(graph: &AttributionGraph) -> f64 {
    let mut worst = 0.0f64;
    for node in 0..graph.n_nodes() {
        let Some(value) = graph.value(node) else {
            assert!(graph.edges_to(node).is_empty());
            continue;
        };
        let edges = graph
            .edges_to(node)
            .iter()
            .map(|edge| f64::from(edge.weight));
        let sum = edges.clone().sum::<f64>() + f64::from(value.bias) + f64::from(value.cut);
        let size = edges.map(f64::abs).sum::<f64>() + f64::from(value.bias.abs());
        worst = worst.max((sum - f64::from(value.total)).abs() / size);
    }
    worst
}
