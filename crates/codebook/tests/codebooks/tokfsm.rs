//! A small TokFSM: the model learns it with and without codebooks, single codes stand for states,
//! and patching them moves the prediction.

use burn::tensor::Device;
use lapidary_codebook::{
    CodebookConfig, CodebookTrainer, Data, DataOptions, Metrics, TokFsm, evaluate, patch_state,
    state_codes,
};

/// The small machine of the acceptance test, with settings of its own.
fn config(set: &[&str]) -> CodebookConfig {
    let text = include_str!("../../../../configs/codebook/tokfsm-small.toml");
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    CodebookConfig::parse("tokfsm-small.toml", text, &set).unwrap()
}

fn machine(config: &CodebookConfig) -> TokFsm {
    match &config.data {
        DataOptions::TokFsm(options) => TokFsm::new(options.clone()).unwrap(),
        DataOptions::Text { .. } => panic!("the config is of a machine"),
    }
}

fn trained(config: &CodebookConfig) -> (CodebookTrainer, Metrics) {
    let data = Data::TokFsm(machine(config));
    let mut trainer = CodebookTrainer::new(config, data, None, &Device::flex()).unwrap();
    while trainer.step_count() < config.steps {
        let step = trainer.step().unwrap();
        if step.step.is_multiple_of(100) {
            println!(
                "step {}: loss {:.4}, codes {:.4}, unused {:?}",
                step.step, step.loss, step.code_loss, step.frac_unused_codes
            );
        }
    }
    let data = trainer.data().clone();
    let found = evaluate(
        &trainer.model(),
        trainer.codebooks(),
        &data,
        config.seed,
        64,
    );
    (trainer, found.unwrap())
}

#[test]
fn a_machine_is_learned_with_and_without_codebooks_and_codes_stand_for_states() {
    let dense = config(&["codebook.places=[]"]);
    let (_, dense) = trained(&dense);
    println!("dense: {dense:?}");
    let config = config(&[]);
    let (trainer, coded) = trained(&config);
    println!("codebooks: {coded:?}");
    let (model, fsm) = (trainer.model(), machine(&config));
    let codes = state_codes(&model, trainer.codebooks(), &fsm, config.seed, 32, 0.8).unwrap();
    for code in &codes {
        println!("{code:?}");
    }
    let good = codes
        .iter()
        .filter(|c| c.precision >= 0.9 && c.recall >= 0.8);
    println!("{} of {} states", good.clone().count(), codes.len());
    let patched = patch_state(&model, trainer.codebooks(), &fsm, config.seed, 32, 20).unwrap();
    println!("{patched:?}");
    let (dense, coded) = (
        dense.transition_accuracy.unwrap(),
        coded.transition_accuracy.unwrap(),
    );
    assert!(dense >= 0.98, "dense: {dense}");
    assert!(coded >= dense - 0.05, "codebooks: {coded}, dense: {dense}");
    assert!(good.count() >= 1);
    assert!(patched.mass >= 0.8, "{patched:?}");
}
