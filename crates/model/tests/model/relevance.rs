//! Gradients by the rules of layer-wise relevance propagation: the values stay, and what the rules
//! make linear adds up.

use crate::fixtures::model;
use burn::tensor::Tensor;
use lapidary_model::{BackwardRules, Gradients, HookPoint, HookedRun, LanguageModel};

const ALL: BackwardRules = BackwardRules {
    frozen_patterns: true,
    ..BackwardRules::RELP
};

fn hook(name: &str) -> HookPoint {
    name.parse().unwrap()
}

fn host(x: &Tensor<3>) -> Vec<f32> {
    x.clone().into_data().iter::<f32>().collect()
}

fn one_logit(logits: Tensor<3>) -> Tensor<1> {
    let last = logits.dims()[1] - 1;
    logits.narrow(1, last, 1).narrow(2, 7, 1).sum()
}

fn gradients(model: &LanguageModel, at: &[HookPoint], rules: BackwardRules) -> Gradients {
    let tokens = model.tokens(&[&[3u32, 1, 4, 1, 5, 9]]).unwrap();
    let run = HookedRun {
        rules,
        ..Default::default()
    };
    model.gradients(tokens, &run, at, &one_logit).unwrap()
}

/// The sum of embeddings times gradients.
fn explained(model: &LanguageModel, rules: BackwardRules) -> f64 {
    let at = hook("hook_embed");
    let run = HookedRun {
        capture: &[at],
        ..Default::default()
    };
    let tokens = model.tokens(&[&[3u32, 1, 4, 1, 5, 9]]).unwrap();
    let values = host(&model.run(tokens, &run).unwrap().captured[&at]);
    let slopes = host(&gradients(model, &[at], rules).at[&at]);
    let products = values.iter().zip(&slopes);
    products.map(|(x, g)| f64::from(*x) * f64::from(*g)).sum()
}

#[test]
fn rules_change_gradients_and_no_value() {
    let at = hook("blocks.0.hook_resid_pre");
    for name in ["gpt2", "neox", "llama-gqa", "gemma2", "qwen3", "opt"] {
        let model = model(name);
        let plain = gradients(&model, &[at], BackwardRules::default());
        for rules in [BackwardRules::RELP, ALL] {
            let ruled = gradients(&model, &[at], rules);
            assert_eq!(ruled.value.to_bits(), plain.value.to_bits(), "{name}");
            assert_ne!(host(&ruled.at[&at]), host(&plain.at[&at]), "{name}");
        }
    }
}

/// Without biases, the rules make the model a product of matrices that depend on the tokens: the
/// logit is the sum of what the embeddings contribute.
#[test]
fn relevances_of_embeddings_add_up_to_the_logit_where_there_are_no_biases() {
    for name in ["llama-gqa", "mistral", "qwen3"] {
        let model = model(name);
        let logit = f64::from(gradients(&model, &[], ALL).value);
        let close = |rules| (explained(&model, rules) - logit).abs() < 1e-4 * logit.abs();
        assert!(close(ALL), "{name}: {} of {logit}", explained(&model, ALL));
        for rule in 0..4 {
            let mut rules = ALL;
            match rule {
                0 => rules.frozen_norms = false,
                1 => rules.linear_activations = false,
                2 => rules.halved_gates = false,
                _ => rules.frozen_patterns = false,
            }
            assert!(!close(rules), "{name} without rule {rule}");
        }
    }
}
