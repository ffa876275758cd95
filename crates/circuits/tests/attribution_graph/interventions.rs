//! Activations of features that are changed, and what comes of it.

use super::*;

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

/// A feature that another change has switched off is not taken off a second time: its activation in
/// the changed run counts.
#[test]
fn a_change_starts_from_the_activation_that_other_changes_left() {
    for cross in [false, true] {
        let model = model("llama-gqa");
        let transcoders = match cross {
            false => per_layer(&model, PLAIN),
            true => cross_layer(&model, PLAIN),
        };
        let replacement = ReplacementModel::new(&model, transcoders).unwrap();
        let n_layers = model.config().n_layers();
        let active = replacement.active_features(&TOKENS).unwrap();
        let run = |changes: &[FeatureChange]| {
            let run = replacement.intervene(&TOKENS, changes, Propagation::Full, &[]);
            run.unwrap()
        };
        // Large, so that other features change.
        let first = active
            .iter()
            .find(|f| f.layer == 0 && f.position == 3)
            .unwrap();
        let first = FeatureChange {
            layer: 0,
            position: 3,
            index: first.index,
            activation: 20.0,
        };
        let alone = run(&[first]);
        // One that reaches the last logits.
        let last = TOKENS.len() - 1;
        let reaches = |f: &ChangedFeature| f.layer + 1 < n_layers || f.position == last;
        let gone = alone.features.iter().find(|f| f.after == 0.0 && reaches(f));
        let gone = gone.unwrap();
        let second = FeatureChange {
            layer: gone.layer,
            position: gone.position,
            index: gone.index,
            activation: 0.0,
        };
        let both = run(&[first, second]);
        for (a, b) in both.logits_after.iter().zip(&alone.logits_after) {
            assert!((a - b).abs() < 1e-6, "{cross}: {a}, {b}");
        }
        let other = run(&[second]);
        assert!(other.logits_after != other.logits_before);
    }
}
