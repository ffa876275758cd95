//! Losses through the model: they fall in training, runs resume to the same bits, coders share a
//! pass, and recipes that cannot be are refused.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use lapidary_activations::{
    ActivationMatrix, BatchSource, BlockConfig, BlockStream, Exclusion, NormalizationKind,
    SequenceStream, StreamConfig,
};
use lapidary_coder::Weight;
use lapidary_model::LanguageModel;
use lapidary_sae::{Recipe, TrainingRun};

const CONTEXT: usize = 32;
const BATCH: usize = 4 * CONTEXT;

fn recipe(settings: &[&str]) -> Recipe {
    let text = format!(
        "hook_point = 'blocks.2.hook_resid_post'
         activations.buffer_tokens = 1024
         activations.seed = 0
         corpus.context = {CONTEXT}
         [coder]
         d_sae = 192
         k = 12
         [training]
         loss = 'kl'
         batch_tokens = {BATCH}
         tokens = {}
         lr = 3e-3
         dead_after_tokens = 256
         log_every_steps = 1",
        24 * BATCH
    );
    let set: Vec<String> = settings.iter().map(ToString::to_string).collect();
    Recipe::parse("test.toml", &text, &set).unwrap()
}

fn source(model: &Arc<LanguageModel>, fresh: bool) -> Box<dyn BatchSource> {
    let blocks = BlockConfig {
        corpus: "embedded".into(),
        text_field: "text".into(),
        context: CONTEXT,
        prepend_bos: true,
        attend_across_documents: false,
    };
    let blocks = BlockStream::new(model.clone(), &blocks).unwrap();
    let config = StreamConfig {
        hook_points: vec!["blocks.2.hook_resid_post".parse().unwrap()],
        batch_tokens: BATCH,
        buffer_tokens: 1024,
        harvest_blocks: 4,
        exclude: Exclusion::default(),
        normalization: NormalizationKind::UnitNorm,
        seed: 0,
        other: None,
    };
    Box::new(match fresh {
        true => SequenceStream::new(blocks, config).unwrap(),
        false => SequenceStream::unfilled(blocks, config).unwrap(),
    })
}

fn bits(run: &TrainingRun, number: usize) -> Vec<f32> {
    let coder = run.trainers()[number].coder();
    let weights = coder.weights().into_iter();
    let values = weights.flat_map(|(_, weight)| match weight {
        Weight::Matrix(t) => t.to_data().iter::<f32>().collect::<Vec<f32>>(),
        Weight::Vector(t) => t.to_data().iter::<f32>().collect(),
    });
    values.collect()
}

#[test]
fn losses_fall_and_a_resumed_run_of_two_has_the_bits_of_each_alone() {
    let device = Device::flex();
    let model = Arc::new(LanguageModel::load("embedded", &device).unwrap());
    let recipes = [
        recipe(&["training.local_coefficient=0.5"]),
        recipe(&["training.loss=ce", "coder.architecture=batchtopk", "seed=4"]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    let mut half = TrainingRun::new(&recipes, source(&model, true), &device).unwrap();
    let mut losses = [vec![], vec![]];
    let mut observe = |number: usize, loss| losses[number].push(loss);
    for _ in 0..13 {
        for (number, report) in half.step().unwrap().iter().enumerate() {
            observe(number, report.as_ref().unwrap().loss);
        }
    }
    half.save_checkpoint(&dir).unwrap();
    drop(half);
    let mut rest = TrainingRun::resume(&dir, source(&model, false), &device).unwrap();
    rest.run(&mut |number, report| observe(number, report.loss))
        .unwrap();
    for (number, losses) in losses.iter().enumerate() {
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        // The model's own cross-entropy, which no reconstruction gets below by much.
        let own = [0.0, 3.6][number];
        let (first, last) = (mean(&losses[..3]) - own, mean(&losses[21..]) - own);
        assert!(
            losses.len() == 24 && last < 0.8 * first,
            "{number}: {first} to {last}"
        );
    }
    for (number, recipe) in recipes.iter().enumerate() {
        let recipe = std::slice::from_ref(recipe);
        let mut alone = TrainingRun::new(recipe, source(&model, true), &device).unwrap();
        alone.run(&mut |_, _| {}).unwrap();
        assert!(
            bits(&alone, 0) == bits(&rest, number),
            "other bits: {number}"
        );
    }
}

#[test]
fn a_source_without_sequences_and_recipes_that_cannot_be_are_refused() {
    let device = Device::flex();
    let rows = Tensor::<2>::random([512, 256], burn::tensor::Distribution::Default, &device);
    let matrix = ActivationMatrix::new(rows, BATCH, 1).unwrap();
    let mut run = TrainingRun::new(&[recipe(&[])], Box::new(matrix), &device).unwrap();
    let error = run.step().unwrap_err().to_string();
    assert!(
        error.contains("this source of activations has no sequences"),
        "{error}"
    );
    let mixed = [recipe(&[]), recipe(&["training.loss=local"])];
    let matrix = ActivationMatrix::new(Tensor::<2>::ones([512, 256], &device), BATCH, 1).unwrap();
    let error = TrainingRun::new(&mixed, Box::new(matrix), &device)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("`training.loss`: found"),
        "{error}"
    );
    for (text, expected) in [
        ("training.loss = 'mse'", "training.loss"),
        (
            "training.loss = 'kl'\ncoder.architecture = 'gated'",
            "does not go with `coder.architecture` = \"gated\"",
        ),
        (
            "training.loss = 'kl'\ncoder.multi_topk = true",
            "and `coder.multi_topk`",
        ),
        (
            "training.loss = 'ce'\nactivations.store = 'x'",
            "does not go with `activations.store`",
        ),
        (
            "training.loss = 'ce'\ncorpus.context = 100",
            "`training.batch_tokens` = 2048 is no multiple of `corpus.context` = 100",
        ),
        (
            "training.loss = 'kl'\nhook_points = ['blocks.0.hook_resid_post', 'blocks.1.hook_resid_post']",
            "needs `training.local_coefficient` above 0: the reconstruction at blocks.1.hook_resid_post hides the effect of the earlier ones",
        ),
        (
            "training.local_coefficient = 0.5",
            "`training.local_coefficient` needs `training.loss`",
        ),
    ] {
        let error = Recipe::parse("run.toml", text, &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    let both = "training.loss = 'kl'\ntraining.local_coefficient = 1.0\nhook_points = ['blocks.0.hook_resid_post', 'blocks.1.hook_resid_post']";
    assert!(Recipe::parse("run.toml", both, &[]).is_ok());
}
