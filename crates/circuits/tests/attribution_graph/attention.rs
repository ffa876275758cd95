//! QK attribution: what a score of a head is made of.

use super::*;

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
