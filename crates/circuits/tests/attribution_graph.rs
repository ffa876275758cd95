//! Attribution graphs of small random models with random transcoders: values are the sums of edges
//! and biases, and an edge is what a frozen run says.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_circuits::CircuitError;
use lapidary_circuits::attribution_graph::{
    AttributionGraph, AttributionOptions, EdgeEnd, FeatureChange, GraphNames, Node, PathNode,
    PathOptions, Propagation, Pruning, ReplacementModel, ScorePart, Step,
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

#[test]
fn edges_and_biases_sum_to_pre_activations_and_logits() {
    let skip = Kind {
        skip: true,
        ..PLAIN
    };
    let jumprelu = Kind {
        architecture: Architecture::JumpRelu,
        b_dec_to_input: true,
        ..PLAIN
    };
    let folded = Kind {
        from: BlockHook::MlpHookIn,
        to: BlockHook::MlpHookOut,
        architecture: Architecture::Standard,
        skip: true,
        ..PLAIN
    };
    let unnormalized = Kind {
        from: BlockHook::MlpIn,
        ..skip
    };
    for name in [
        "gpt2",
        "neox",
        "llama-gqa",
        "gemma2",
        "gemma3",
        "qwen3",
        "opt",
        "phi",
    ] {
        let model = model(name);
        for kind in [PLAIN, skip, jumprelu, folded, unnormalized] {
            let found = graph(&model, per_layer(&model, kind));
            assert!(found.selected().len() > 10, "{name}: too few features");
            let worst = unexplained(&found);
            assert!(worst < 1e-5, "{name} {:?}: {worst}", kind.architecture);
        }
        let thresholds = Kind {
            b_dec_to_input: false,
            ..jumprelu
        };
        for kind in [PLAIN, thresholds] {
            let worst = unexplained(&graph(&model, cross_layer(&model, kind)));
            assert!(worst < 1e-5, "{name}, cross-layer: {worst}");
        }
    }
}

/// Values of a run in which patterns, divisors and MLPs stay as they were on the prompt, with
/// `more` added at a hook point, at one position.
fn frozen_run(
    model: &LanguageModel,
    capture: &[HookPoint],
    more: Option<(HookPoint, usize, Tensor<1>)>,
) -> Vec<Vec<f32>> {
    let c = model.config();
    let mut points = vec![HookPoint::FinalNormScale];
    for l in 0..c.n_layers() {
        let mut hooks = vec![
            BlockHook::Pattern,
            BlockHook::Ln1Scale,
            BlockHook::Ln2Scale,
            BlockHook::MlpOut,
        ];
        if c.post_norms {
            hooks.push(BlockHook::Ln1PostScale);
        }
        points.extend(hooks.into_iter().map(|hook| HookPoint::Block(l, hook)));
    }
    let tokens = model.tokens(&[TOKENS]).unwrap();
    let run = HookedRun {
        capture: &points,
        ..Default::default()
    };
    let mut interventions = model.run(tokens.clone(), &run).unwrap().freeze(|_| true);
    if let Some((at, position, direction)) = more {
        interventions.push(Intervention::add(at, direction).at_positions(&[position]));
    }
    let run = HookedRun {
        capture,
        interventions: &interventions,
        logits: true,
        ..Default::default()
    };
    let output = model.run(tokens, &run).unwrap();
    let mut values: Vec<Vec<f32>> = capture
        .iter()
        .map(|at| {
            output.captured[at]
                .clone()
                .into_data()
                .iter::<f32>()
                .collect()
        })
        .collect();
    values.push(output.logits.unwrap().into_data().iter::<f32>().collect());
    values
}

/// Every edge between features, and from features, errors and tokens to all targets, by brute
/// force: what the target gains when what the source writes is added once more.
#[test]
fn an_edge_is_the_change_in_the_frozen_model() {
    for name in ["gpt2", "neox", "llama-gqa", "gemma2"] {
        let model = model(name);
        let (d, vocabulary) = (model.config().d_model, model.config().d_vocab);
        for cross in [false, true] {
            let transcoders = match cross {
                false => per_layer(&model, PLAIN),
                true => cross_layer(&model, PLAIN),
            };
            let coders: Vec<SparseCoder> = match cross {
                false => transcoders
                    .iter()
                    .map(|(_, d)| d.coder.as_sparse().unwrap().clone())
                    .collect(),
                true => transcoders[0].1.coder.layers().to_vec(),
            };
            let found = graph(&model, transcoders);
            let n_layers = found.n_layers();
            let inputs: Vec<HookPoint> = (0..n_layers)
                .map(|l| HookPoint::Block(l, PLAIN.from))
                .collect();
            let plain = frozen_run(&model, &inputs, None);
            let mut checked = 0;
            for (i, source) in found.selected().iter().enumerate().step_by(7) {
                let source = found.active()[*source as usize];
                let written = coders[source.layer].w_dec().narrow(0, source.index, 1);
                let written: Tensor<1> = written.squeeze_dim(0) * source.activation;
                // One layer at a time: what it does at all of them adds up.
                let places = written.dims()[0] / d;
                let runs: Vec<Vec<Vec<f32>>> = (0..places)
                    .map(|later| {
                        let at = HookPoint::Block(source.layer + later, BlockHook::MlpOut);
                        let part = written.clone().narrow(0, later * d, d);
                        frozen_run(&model, &inputs, Some((at, source.position, part)))
                    })
                    .collect();
                let gain = |value: &dyn Fn(&[Vec<f32>]) -> f64| -> f64 {
                    runs.iter().map(|run| value(run) - value(&plain)).sum()
                };
                for node in 0..found.n_nodes() {
                    let edge = found.edges_to(node).iter().find(|e| e.source == i as u32);
                    let edge = edge.map_or(0.0, |edge| f64::from(edge.weight));
                    let expected = match found.node(node) {
                        Node::Feature(target) => {
                            let row = coders[target.layer].w_enc().narrow(0, target.index, 1);
                            let row: Vec<f32> = row.into_data().iter::<f32>().collect();
                            gain(&|values| {
                                let x = &values[target.layer][target.position * d..][..d];
                                row.iter().zip(x).map(|(w, x)| f64::from(w * x)).sum()
                            })
                        }
                        Node::Logit(target) => gain(&|values| {
                            let last = &values[n_layers][(TOKENS.len() - 1) * vocabulary..];
                            let uncapped = |x: f32| match model.config().logit_softcap {
                                Some(cap) => cap * (f64::from(x) / cap).atanh(),
                                None => f64::from(x),
                            };
                            let mean = last.iter().map(|x| uncapped(*x)).sum::<f64>();
                            uncapped(last[target.token as usize]) - mean / vocabulary as f64
                        }),
                        _ => continue,
                    };
                    let size = 1.0 + f64::from(found.value(node).unwrap().total.abs());
                    assert!(
                        (edge - expected).abs() < 1e-5 * size,
                        "{name}, from {source:?} to {:?}: {edge}, expected {expected}",
                        found.node(node)
                    );
                    checked += usize::from(edge != 0.0);
                }
            }
            assert!(checked > 20, "{name}: {checked} edges");
        }
    }
}

/// Little memory cuts the smallest edges of each node, says what they add, and changes no other.
/// A feature set to another activation, with all that the graph holds constant held constant: all
/// that it has edges to changes by these edges, times the relative change.
#[test]
fn a_direct_intervention_changes_logits_and_pre_activations_by_the_edges() {
    let skip = Kind {
        skip: true,
        ..PLAIN
    };
    let norm_out = Kind {
        to: BlockHook::MlpHookOut,
        ..PLAIN
    };
    for (name, kind, cross) in [
        ("gpt2", PLAIN, false),
        ("llama-gqa", skip, false),
        ("neox", PLAIN, true),
        ("gemma2", skip, false),
        ("gemma2", norm_out, true),
    ] {
        let model = model(name);
        let transcoders = match cross {
            false => per_layer(&model, kind),
            true => cross_layer(&model, kind),
        };
        let replacement = ReplacementModel::new(&model, transcoders).unwrap();
        let options = AttributionOptions::default();
        let found = replacement
            .attribute(&TOKENS, &options, &|_, _| {})
            .unwrap();
        let mut checked = 0;
        for (source, number) in found.selected().iter().enumerate().step_by(11) {
            let feature = found.active()[*number as usize];
            let mut nodes = vec![];
            let mut watch = vec![];
            for node in 0..found.n_nodes() {
                match found.node(node) {
                    Node::Feature(target) => {
                        watch.push([target.layer, target.position, target.index]);
                        nodes.push(node);
                    }
                    Node::Logit(_) => nodes.push(node),
                    _ => {}
                }
            }
            let change = FeatureChange {
                layer: feature.layer,
                position: feature.position,
                index: feature.index,
                activation: -0.5 * feature.activation,
            };
            let direct = Propagation::Direct;
            let run = replacement.intervene(&TOKENS, &[change], direct, &watch);
            let run = run.unwrap();
            let cap = model.config().logit_softcap;
            let uncapped = |x: f32| match cap {
                Some(cap) => cap * (f64::from(x) / cap).atanh(),
                None => f64::from(x),
            };
            let demeaned = |logits: &[f32], token: u32| {
                let mean = logits.iter().map(|x| uncapped(*x)).sum::<f64>() / logits.len() as f64;
                uncapped(logits[token as usize]) - mean
            };
            let mut watched = run.watched.iter();
            for node in nodes {
                let edges = found.edges_to(node);
                let edge = edges.iter().find(|e| e.source == source as u32);
                let edge = edge.map_or(0.0, |e| f64::from(e.weight));
                let change = match found.node(node) {
                    Node::Logit(logit) => {
                        demeaned(&run.logits_after, logit.token)
                            - demeaned(&run.logits_before, logit.token)
                    }
                    _ => {
                        let [before, after] = watched.next().unwrap();
                        f64::from(after - before)
                    }
                };
                let size = 1.0 + f64::from(found.value(node).unwrap().total.abs());
                assert!(
                    (change + 1.5 * edge).abs() < 2e-5 * size,
                    "{name} {cross}, {feature:?} to {:?}: {change}, edge {edge}",
                    found.node(node)
                );
                checked += usize::from(edge.abs() > 1e-3);
            }
        }
        assert!(checked > 20, "{name}: {checked}");
    }
}

/// By hand: the decoder row added to what the MLP writes, attention patterns as they were or not.
#[test]
fn an_intervention_runs_the_model_with_a_changed_mlp() {
    let model = model("llama-gqa");
    let transcoders = per_layer(&model, PLAIN);
    let w_dec = transcoders[0].1.coder.as_sparse().unwrap().w_dec();
    let replacement = ReplacementModel::new(&model, transcoders).unwrap();
    let active = replacement.active_features(&TOKENS).unwrap();
    let feature = active.iter().find(|f| f.layer == 0).unwrap();
    let tokens = model.tokens(&[TOKENS]).unwrap();
    let patterns: Vec<HookPoint> = (0..model.config().n_layers())
        .map(|l| HookPoint::Block(l, BlockHook::Pattern))
        .collect();
    let clean = HookedRun {
        capture: &patterns,
        ..Default::default()
    };
    let frozen = model.run(tokens.clone(), &clean).unwrap().freeze(|_| true);
    let change = FeatureChange {
        layer: 0,
        position: feature.position,
        index: feature.index,
        activation: 3.0,
    };
    let mut found = vec![];
    for (propagation, mut interventions) in [
        (Propagation::FrozenAttention, frozen),
        (Propagation::Full, vec![]),
    ] {
        let row = w_dec
            .clone()
            .narrow(0, feature.index, 1)
            .squeeze_dim::<1>(0);
        let direction = row * (3.0 - feature.activation);
        let at = HookPoint::Block(0, BlockHook::MlpOut);
        interventions.push(Intervention::add(at, direction).at_positions(&[feature.position]));
        let by_hand = HookedRun {
            interventions: &interventions,
            logits: true,
            last_logits: true,
            ..Default::default()
        };
        let expected = model.run(tokens.clone(), &by_hand).unwrap().logits.unwrap();
        let expected: Vec<f32> = expected.into_data().iter::<f32>().collect();
        let run = replacement.intervene(&TOKENS, &[change], propagation, &[]);
        let run = run.unwrap();
        for (a, b) in run.logits_after.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-5, "{propagation:?}: {a}, {b}");
        }
        assert!(run.logits_after != run.logits_before);
        assert!(
            run.features
                .iter()
                .all(|f| f.layer > 0 && f.before != f.after)
        );
        found.push(run.logits_after);
    }
    assert!(found[0] != found[1]);
    let refused = |change: FeatureChange| {
        let run = replacement.intervene(&TOKENS, &[change, change], Propagation::Full, &[]);
        run.unwrap_err().to_string()
    };
    for (wrong, expected) in [
        (
            FeatureChange { layer: 9, ..change },
            "expected a layer below",
        ),
        (
            FeatureChange {
                index: 99,
                ..change
            },
            "expected a latent below 40",
        ),
        (
            FeatureChange {
                position: 0,
                ..change
            },
            "from 1 on",
        ),
        (
            FeatureChange {
                position: 7,
                ..change
            },
            "below 7",
        ),
        (change, "changed twice"),
    ] {
        let problem = refused(wrong);
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn the_logits_of_a_graph_can_be_named() {
    let model = model("gpt2");
    let replacement = ReplacementModel::new(&model, per_layer(&model, PLAIN)).unwrap();
    let graph = |targets: &[u32]| {
        let options = AttributionOptions {
            targets: targets.to_vec(),
            ..Default::default()
        };
        replacement.attribute(&TOKENS, &options, &|_, _| {})
    };
    let usual = graph(&[]).unwrap();
    let last = usual.logits().last().unwrap();
    let named = graph(&[3, last.token]).unwrap();
    let tokens: Vec<u32> = named.logits().iter().map(|logit| logit.token).collect();
    assert_eq!(tokens, [3, last.token]);
    assert_eq!(named.logits()[1].probability, last.probability);
    let edges = |graph: &AttributionGraph| -> Vec<f32> {
        let edges = graph.edges_to(graph.n_nodes() - 1).iter();
        edges.map(|edge| edge.weight).collect()
    };
    assert_eq!(edges(&usual), edges(&named));
    let d_vocab = model.config().d_vocab as u32;
    let problem = graph(&[d_vocab]).err().unwrap().to_string();
    assert!(problem.contains("expected one below"), "{problem}");
}

#[test]
fn a_limit_of_memory_cuts_the_smallest_edges_and_counts_them() {
    let model = model("llama-gqa");
    let whole = graph(&model, per_layer(&model, PLAIN));
    let replacement = ReplacementModel::new(&model, per_layer(&model, PLAIN)).unwrap();
    let at = |memory| {
        let options = AttributionOptions {
            memory: Some(memory),
            ..Default::default()
        };
        replacement.attribute(&TOKENS, &options, &|_, _| {})
    };
    let least = match at(1000) {
        Err(CircuitError::Memory {
            found: 1000, least, ..
        }) => least,
        other => panic!("{:?}", other.map(|graph| graph.n_edges())),
    };
    let enough = at(least).unwrap();
    // 1024 edges of each node fit into the least memory, and no node here has as many.
    assert_eq!(enough.n_edges(), whole.n_edges());
    assert!(unexplained(&enough) < 1e-5);
    assert_eq!(whole.share_cut(), 0.0);
    let few = AttributionOptions {
        max_feature_nodes: 10,
        ..Default::default()
    };
    let few = replacement.attribute(&TOKENS, &few, &|_, _| {}).unwrap();
    assert_eq!(few.selected().len(), 10);
    assert!(few.share_cut() > 0.05 && unexplained(&few) < 1e-5);
}

#[test]
fn the_json_names_every_end_of_every_link() {
    let model = model("llama-gqa");
    let found = graph(&model, per_layer(&model, PLAIN));
    let pruned = found.prune(Pruning::default());
    let names = GraphNames {
        slug: "a".into(),
        scan: "b".into(),
        transcoders: vec![],
        prompt: "</script>".into(),
        token: &|token| format!("<{token}>"),
        promoted: &|_| vec![1, 2],
    };
    let folder = tempfile::tempdir().unwrap();
    pruned.write(folder.path(), &names, None).unwrap();
    let json = std::fs::read_to_string(folder.path().join("graph.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let nodes = json["nodes"].as_array().unwrap();
    let ids: BTreeSet<&str> = nodes
        .iter()
        .map(|node| node["node_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), nodes.len(), "every id is of one node");
    let links = json["links"].as_array().unwrap();
    assert_eq!(links.len(), pruned.edges().count());
    for link in links {
        for end in ["source", "target"] {
            assert!(ids.contains(link[end].as_str().unwrap()), "{link}");
        }
    }
    let page = std::fs::read_to_string(folder.path().join("graph.html")).unwrap();
    // Those of the page itself.
    let ends = |text: &str| text.matches("</script>").count();
    let template = include_str!("../page/graph.html");
    assert_eq!(ends(&page), ends(template));
    let file = std::fs::read(folder.path().join("graph.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let count = |name: &str| file.tensor(name).unwrap().shape()[0];
    assert_eq!(count("row_offsets"), found.n_nodes() + 1);
    assert_eq!(count("columns"), found.n_edges());
}

/// Every node of a tree of paths is the sum of its parts, down to tokens, errors and biases.
#[test]
fn paths_leave_nothing_unexplained() {
    fn check(node: &PathNode, name: &str, seen: &mut BTreeSet<&'static str>) {
        seen.insert(match node.step {
            Step::Feature { .. } => "feature",
            Step::Head { .. } => "head",
            Step::Skip { .. } => "skip",
            Step::Token { .. } => "token",
            Step::Error { .. } => "error",
            Step::Bias => "bias",
        });
        if node.parts.is_empty() {
            return;
        }
        let sum = node.parts.iter().map(|part| part.contribution).sum::<f32>() + node.rest;
        let size = node
            .parts
            .iter()
            .map(|part| part.contribution.abs())
            .sum::<f32>();
        assert!(
            (sum - node.contribution).abs() < 1e-4 * size.max(node.contribution.abs()),
            "{name}: {:?} is {}, its parts are {sum}",
            node.step,
            node.contribution
        );
        node.parts.iter().for_each(|part| check(part, name, seen));
    }
    let skip = Kind {
        skip: true,
        ..PLAIN
    };
    let folded = Kind {
        from: BlockHook::MlpHookIn,
        to: BlockHook::MlpHookOut,
        b_dec_to_input: true,
        ..skip
    };
    let mut seen = BTreeSet::new();
    for name in ["gpt2", "neox", "llama-gqa", "gemma2", "opt"] {
        let model = model(name);
        for transcoders in [
            per_layer(&model, skip),
            per_layer(&model, folded),
            cross_layer(&model, PLAIN),
        ] {
            let replacement = ReplacementModel::new(&model, transcoders).unwrap();
            let options = AttributionOptions::default();
            let graph = replacement
                .attribute(&TOKENS, &options, &|_, _| {})
                .unwrap();
            let last = *graph.active().last().unwrap();
            let options = PathOptions {
                branches: 30,
                nodes: 40,
            };
            let feature = [last.layer, last.index];
            let paths = replacement.paths(&TOKENS, feature, Some(last.position), options);
            let paths = paths.unwrap();
            let size = 1.0 + last.activation;
            assert!(
                (paths.contribution - last.activation).abs() < 1e-4 * size,
                "{name}"
            );
            check(&paths, name, &mut seen);
            let error = replacement.paths(&TOKENS, [0, LATENTS], None, options);
            assert!(
                error
                    .unwrap_err()
                    .to_string()
                    .contains("latents of layer 0 are 0 to")
            );
            let error = replacement.paths(&TOKENS, [99, 0], None, options);
            assert!(error.unwrap_err().to_string().contains("layers are 0 to"));
            let error = replacement.paths(&TOKENS, feature, Some(0), options);
            assert!(
                error
                    .unwrap_err()
                    .to_string()
                    .contains("not active at position 0")
            );
        }
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}

/// The score of every head, from a run of the model: all parts by query, all by key, and all pairs
/// sum to it.
#[test]
fn parts_of_a_score_sum_to_the_score_of_the_model() {
    for name in ["gpt2", "neox", "llama-gqa", "qwen3", "opt"] {
        let model = model(name);
        let c = model.config();
        let replacement = ReplacementModel::new(&model, per_layer(&model, PLAIN)).unwrap();
        for layer in 0..c.n_layers() {
            let at = HookPoint::Block(layer, BlockHook::AttnScores);
            let run = HookedRun {
                capture: &[at],
                ..Default::default()
            };
            let tokens = model.tokens(&[TOKENS]).unwrap();
            let scores = model.run(tokens, &run).unwrap().captured[&at].clone();
            let scores: Vec<f32> = scores.into_data().iter::<f32>().collect();
            for head in 0..c.n_heads {
                let [query, key] = [5, 2];
                let found = replacement
                    .score_attribution(&TOKENS, [layer, head], [query, key], 100_000)
                    .unwrap();
                let keys = TOKENS.len();
                let score = scores[(query * c.n_heads + head) * keys + key];
                let close = |x: f32| (x - score).abs() < 1e-4 * (1.0 + score.abs());
                let sum = |parts: &[ScorePart]| parts.iter().map(|p| p.contribution).sum::<f32>();
                assert!(
                    close(found.score),
                    "{name} {layer}.{head}: {} {score}",
                    found.score
                );
                assert!(close(sum(&found.by_query)), "{name} {layer}.{head}");
                assert!(close(sum(&found.by_key)), "{name} {layer}.{head}");
                let pairs = found
                    .pairs
                    .iter()
                    .map(|pair| pair.contribution)
                    .sum::<f32>();
                assert!(close(pairs + found.rest), "{name} {layer}.{head}");
                assert!(found.rest.abs() < 1e-3, "no pair is left out here");
                if layer == 0 {
                    let nodes = found.by_query.iter().filter_map(|part| part.source);
                    assert!(
                        nodes
                            .clone()
                            .all(|node| matches!(node, Node::Token { position: 5, .. })),
                        "in layer 0 a query reads its own token alone"
                    );
                    assert_eq!(nodes.count(), 1);
                }
            }
        }
        let refused = |head, places| {
            let found = replacement.score_attribution(&TOKENS, head, places, 5);
            found.unwrap_err().to_string()
        };
        assert!(refused([99, 0], [5, 2]).contains("layers are 0 to"));
        assert!(refused([0, 99], [5, 2]).contains("heads are 0 to"));
        assert!(refused([0, 0], [2, 5]).contains("a key not after it"));
    }
}

/// The heads of a layer and what goes past them sum to each edge of the graph.
#[test]
fn head_loadings_sum_to_edges() {
    for name in ["gpt2", "neox", "llama-gqa", "gemma2"] {
        let model = model(name);
        let skip = Kind {
            skip: true,
            ..PLAIN
        };
        let replacement = ReplacementModel::new(&model, per_layer(&model, skip)).unwrap();
        let options = AttributionOptions::default();
        let graph = replacement
            .attribute(&TOKENS, &options, &|_, _| {})
            .unwrap();
        let last = graph.selected().len() - 1;
        let feature = graph.active()[graph.selected()[last] as usize];
        let logit = graph.logits()[0].token;
        let ends = [
            (
                last,
                EdgeEnd::Feature {
                    layer: feature.layer,
                    index: feature.index,
                    position: feature.position,
                },
            ),
            (
                graph.n_nodes() - graph.logits().len(),
                EdgeEnd::Logit(logit),
            ),
        ];
        for (node, end) in ends {
            let edges = graph.edges_to(node);
            for layer in 0..graph.n_layers() {
                let loadings = replacement
                    .head_loadings(&TOKENS, end, layer, 100_000)
                    .unwrap();
                assert!(loadings.len() >= edges.len() - 1, "{name}");
                let mut through_heads = 0.0f32;
                for edge in edges {
                    let source = graph.node(edge.source as usize);
                    let found = loadings
                        .iter()
                        .find(|loading| loading.source == source)
                        .unwrap();
                    let sum = found.bypass + found.heads.iter().sum::<f32>();
                    let size = 1.0 + edge.weight.abs();
                    assert!((sum - edge.weight).abs() < 1e-4 * size, "{name} {source:?}");
                    through_heads += found.heads.iter().map(|part| part.abs()).sum::<f32>();
                }
                // Side by side with attention, an MLP reads nothing of its own layer's heads.
                let meets = matches!(end, EdgeEnd::Logit(_));
                assert!(!meets || through_heads > 0.0, "{name}, layer {layer}");
            }
        }
    }
}

/// A LayerNorm takes the mean off: what all dimensions have in common promotes nothing.
#[test]
fn promoted_tokens_do_not_depend_on_what_the_final_norm_takes_off() {
    let model = model("gpt2");
    let promoted = |shift: f32| {
        let mut transcoders = per_layer(&model, PLAIN);
        for (_, dictionary) in &mut transcoders {
            let mut coder = dictionary.coder.as_sparse().unwrap().clone();
            coder.weights = coder.weights.clone().with("w_dec", coder.w_dec() + shift);
            dictionary.coder = coder.into();
        }
        let replacement = ReplacementModel::new(&model, transcoders).unwrap();
        let found = graph(&model, per_layer(&model, PLAIN));
        replacement.promoted(&found.active()[..10], 3).unwrap()
    };
    assert_eq!(promoted(0.0), promoted(3.0));
}

#[test]
fn what_cannot_be_attributed_is_refused_by_name() {
    let model = model("llama-gqa");
    let refused = |transcoders| match ReplacementModel::new(&model, transcoders) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    let all = || per_layer(&model, PLAIN);
    let mut missing = all();
    missing.remove(1);
    let error = refused(missing);
    assert!(error.ends_with("have no transcoder: 1"), "{error}");
    let mut twice = all();
    twice.push(("again".into(), all().remove(0).1));
    let error = refused(twice);
    assert!(
        error.contains("again") && error.contains("layer 0"),
        "{error}"
    );
    let mut autoencoder = all();
    autoencoder[0].1.provenance.sites = Sites::autoencoder("blocks.0.hook_resid_post");
    let error = refused(autoencoder);
    assert!(error.contains("expected a transcoder"), "{error}");
    let mut elsewhere = all();
    elsewhere[0].1.provenance.sites =
        Sites::transcoder("blocks.0.ln2.hook_normalized", "blocks.1.hook_mlp_out");
    let error = refused(elsewhere);
    assert!(error.contains("of the same layer"), "{error}");
    let mut beyond = all();
    beyond[0].1.provenance.sites =
        Sites::transcoder("blocks.9.ln2.hook_normalized", "blocks.9.hook_mlp_out");
    let error = refused(beyond);
    assert!(error.contains("layers are 0 to"), "{error}");
    let other = self::model("gpt2");
    let d = other.config().d_model;
    if d != model.config().d_model {
        let error = refused(per_layer(&other, PLAIN));
        assert!(error.contains(&format!("reads {d} dimensions")), "{error}");
    }
    let replacement = ReplacementModel::new(&model, all()).unwrap();
    let attribute = |tokens: &[u32]| {
        let options = AttributionOptions::default();
        replacement
            .attribute(tokens, &options, &|_, _| {})
            .map(|graph| graph.n_nodes())
    };
    assert!(attribute(&[]).is_err());
    assert!(attribute(&[1_000_000]).is_err());
    assert!(attribute(&vec![1; model.config().n_ctx + 1]).is_err());
    // One token: nothing comes before it.
    assert!(attribute(&[3]).unwrap() > 0);
}
