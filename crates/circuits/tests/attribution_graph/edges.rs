//! Edges: what they sum to, and what they are in the frozen model.

use super::*;

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
