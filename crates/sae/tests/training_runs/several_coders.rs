//! Several coders in one run: each has the bits of one that is trained alone, a resumed run goes on
//! with all of them, and recipes that cannot share batches are refused by the key.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_activations::ActivationMatrix;
use lapidary_coder::Weight;
use lapidary_sae::{Recipe, StepReport, TrainingRun, hook_points};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const D: usize = 16;
const HOOKS: [&str; 2] = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"];
/// One of another width.
const WIDE: &str = "blocks.1.mlp.hook_post";

fn recipe(settings: &[&str]) -> Recipe {
    let text = format!(
        "hook_point = '{}'
         activations.seed = 3
         activations.buffer_tokens = 512
         [coder]
         d_sae = 40
         k = 4
         [training]
         batch_tokens = 64
         tokens = 1280
         lr = 1e-3
         dead_after_tokens = 128
         dead_check_every_steps = 2
         log_every_steps = 3",
        HOOKS[0]
    );
    let set: Vec<String> = settings.iter().map(ToString::to_string).collect();
    Recipe::parse("test.toml", &text, &set).unwrap()
}

/// Recipes that may share batches and have nothing else in common.
fn different_recipes() -> Vec<Recipe> {
    let elsewhere = format!("hook_point={}", HOOKS[1]);
    let across = format!("hook_point_out={WIDE}");
    let both = format!("hook_points={:?}", [HOOKS[0], WIDE]);
    vec![
        recipe(&[]),
        recipe(&["seed=9", "coder.k=7"]),
        recipe(&["coder.architecture=batchtopk", "training.tokens=704"]),
        recipe(&["coder.architecture=standard", "coder.d_sae=24"]),
        recipe(&["coder.architecture=matching_pursuit", &elsewhere]),
        recipe(&["training.clip_grad_norm=0.01", &elsewhere]),
        recipe(&[&across, "coder.skip_connection=true"]),
        recipe(&["training.optimizer=signum", "coder.k_start=30"]),
        recipe(&["training.optimizer=muon", "coder.architecture=gated"]),
        recipe(&[
            &both,
            &format!("hook_point={}", HOOKS[0]),
            "coder.architecture=jumprelu",
        ]),
        recipe(&[
            &across,
            &format!("hook_point={}", HOOKS[1]),
            "coder.architecture=batchtopk",
        ]),
    ]
}

fn source(recipes: &[Recipe]) -> Box<ActivationMatrix> {
    let rows = hook_points(recipes).into_iter().map(|hook| {
        let seed = HOOKS.iter().position(|known| *known == hook).unwrap_or(9);
        let d = if hook == WIDE { D + 3 } else { D };
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let values: Vec<f32> = (0..300 * d).map(|_| rng.random::<f32>() - 0.5).collect();
        Tensor::from_data(TensorData::new(values, [300, d]), &Device::flex())
    });
    Box::new(ActivationMatrix::aligned(rows.collect(), 64, 3).unwrap())
}

fn start(recipes: &[Recipe]) -> TrainingRun {
    TrainingRun::new(recipes, source(recipes), &Device::flex()).unwrap()
}

/// Runs to the end: of each coder its reports and the bits of its finished weights.
fn outcome(mut run: TrainingRun) -> Vec<(Vec<StepReport>, Vec<u32>)> {
    let mut reports = vec![vec![]; run.trainers().len()];
    run.run(&mut |number, report| reports[number].push(report.clone()))
        .unwrap();
    let bits = |number| {
        let weights = run.finish(number).unwrap().coder.weights();
        let values = weights.into_iter().flat_map(|(_, weight)| match weight {
            Weight::Matrix(t) => t.to_data().iter::<f32>().collect::<Vec<_>>(),
            Weight::Vector(t) => t.to_data().iter::<f32>().collect(),
        });
        values.map(f32::to_bits).collect()
    };
    let numbers = 0..reports.len();
    reports.into_iter().zip(numbers.map(bits)).collect()
}

#[test]
fn each_coder_of_a_run_has_the_bits_of_one_trained_alone() {
    let recipes = different_recipes();
    let together = outcome(start(&recipes));
    assert_eq!(
        together[2].0.last().unwrap().step,
        11,
        "it is done before the others"
    );
    for (number, (recipe, together)) in recipes.into_iter().zip(together).enumerate() {
        let alone = outcome(start(&[recipe])).remove(0);
        assert_eq!(alone.0, together.0, "coder {number}");
        assert!(alone.1 == together.1, "coder {number}: other bits");
    }
}

#[test]
fn all_coders_of_a_run_resume_to_the_same_bits() {
    let recipes = different_recipes();
    let whole = outcome(start(&recipes));
    // Before and after the shortest has had its steps.
    for stop in [4, 15] {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("checkpoint");
        let mut first = start(&recipes);
        for _ in 0..stop {
            first.step().unwrap();
        }
        first.save_checkpoint(&place).unwrap();
        let resume = |place: &Path, recipes: &[Recipe]| {
            TrainingRun::resume(place, source(recipes), &Device::flex())
        };
        let resumed = outcome(resume(&place, &recipes).unwrap());
        for (number, (resumed, whole)) in resumed.iter().zip(&whole).enumerate() {
            let rest: Vec<_> = whole.0.iter().filter(|r| r.step > stop).cloned().collect();
            assert_eq!(resumed.0, rest, "coder {number}, stopped at {stop}");
            assert!(resumed.1 == whole.1, "coder {number}: other bits");
        }
        let error = resume(&place, &recipes[..1]).err().unwrap().to_string();
        assert!(error.contains("found 1, expected 3"), "{error}");
    }
}

#[test]
fn a_checkpoint_names_no_file_outside_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (place, recipes) = (folder.path().join("checkpoint"), [recipe(&[])]);
    start(&recipes).save_checkpoint(&place).unwrap();
    std::fs::write(folder.path().join("config.toml"), "").unwrap();
    let path = place.join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for name in [
        "../config.toml",
        "/dev/null/../null",
        "coder-0/../../config.toml",
    ] {
        let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        manifest.as_object_mut().unwrap().remove("checksum");
        // What is there has these, so that nothing else is wrong.
        let empty = serde_json::json!({"bytes": 0, "xxh64": "ef46db3751d8e999"});
        manifest["files"][name] = empty;
        std::fs::write(&path, lapidary_io::sealed_json(&manifest)).unwrap();
        let resumed = TrainingRun::resume(&place, source(&recipes), &Device::flex());
        let error = resumed.err().unwrap().to_string();
        assert!(error.contains(&format!("found {name:?}")), "{error}");
    }
}

#[test]
fn recipes_that_need_other_batches_are_refused_by_the_key() {
    let first = recipe(&[]);
    let refused = |a: Recipe, b: Recipe| {
        let both = [a, b];
        let run = TrainingRun::new(&both, source(&both), &Device::flex());
        run.err().unwrap().to_string()
    };
    for (setting, expected) in [
        ("activations.seed=4", "`activations.seed`: found 3 and 4"),
        (
            "training.batch_tokens=32",
            "`training.batch_tokens`: found 64 and 32",
        ),
        ("corpus.context=64", "`corpus.context`: found 128 and 64"),
        (
            "activations.normalization=none",
            "`activations.normalization`: found \"unit_norm\" and \"none\"",
        ),
        ("model=other", "`model`: found \"embedded\" and \"other\""),
    ] {
        let error = refused(first.clone(), recipe(&[setting]));
        assert!(error.contains(expected), "{error}");
    }
    // A seed alone is the seed of the order too.
    let plain = |set: &[String]| Recipe::with_defaults(set).unwrap();
    let (a, b) = (plain(&[]), plain(&["seed=1".into()]));
    let (key, ..) = a.batch_difference(&b).unwrap();
    assert_eq!(key, "activations.seed");
}

#[test]
fn a_coder_that_diverges_is_named() {
    let recipes = [
        recipe(&[]),
        recipe(&["coder.architecture=standard", "training.lr=1e38"]),
    ];
    let error = start(&recipes).run(&mut |_, _| ()).unwrap_err().to_string();
    assert!(error.starts_with("coder 1 of the run: step "), "{error}");
}
