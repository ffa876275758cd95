//! Paths to a feature.

use super::*;

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
