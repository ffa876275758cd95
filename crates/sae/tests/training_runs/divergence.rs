//! A learning rate that is far too high: the coder starts anew until it gets somewhere.

use burn::tensor::{Device, Distribution, Tensor};
use lapidary_activations::ActivationMatrix;
use lapidary_coder::Coder;
use lapidary_sae::{Recipe, StepReport, TrainingRun};

const D: usize = 16;
/// With this rate, nearly all latents die.
const TOO_HIGH: &str = "10";

fn recipe(architecture: &str, lr: &str, restart: bool) -> Recipe {
    let settings = [
        format!("coder.architecture={architecture}"),
        "coder.d_sae=64".to_owned(),
        "coder.k=4".to_owned(),
        "training.tokens=51200".to_owned(), // 400 steps
        "training.batch_tokens=128".to_owned(),
        "training.log_every_steps=1".to_owned(),
        format!("training.lr={lr}"),
        format!("training.restart_if_diverging={restart}"),
    ];
    Recipe::with_defaults(&settings).unwrap()
}

fn source() -> Box<ActivationMatrix> {
    let device = Device::flex();
    device.seed(3);
    let spread = Distribution::Normal(0.0, 1.0);
    let directions = Tensor::<2>::random([32, D], spread, &device);
    let codes = Tensor::<2>::random([4096, 32], Distribution::Bernoulli(0.1), &device);
    Box::new(ActivationMatrix::new(codes.matmul(directions), 128, 5).unwrap())
}

fn train(recipe: Recipe) -> (TrainingRun, Vec<StepReport>) {
    let mut run = TrainingRun::new(&[recipe], source(), &Device::flex()).unwrap();
    let reports = rest(&mut run);
    (run, reports)
}

fn rest(run: &mut TrainingRun) -> Vec<StepReport> {
    let mut reports = vec![];
    run.run(&mut |_, report| reports.push(report.clone()))
        .unwrap();
    reports
}

#[test]
fn a_coder_starts_anew_with_half_the_rate_until_it_does_not_diverge() {
    for architecture in ["topk", "batchtopk", "jumprelu"] {
        let end = |restart| {
            let recipe = recipe(architecture, TOO_HIGH, restart);
            train(recipe).1.pop().unwrap()
        };
        let (with, without) = (end(true), end(false));

        assert_eq!(without.restarts, 0);
        assert!(with.restarts > 0, "{architecture}: {with:?}");
        assert!(with.fvu < without.fvu / 2.0, "{architecture}: {with:?}");
    }
}

#[test]
fn a_rate_that_fits_is_left_as_it_is() {
    for architecture in ["topk", "standard", "matching_pursuit"] {
        let (_, reports) = train(recipe(architecture, "2e-3", true));
        assert_eq!(reports.last().unwrap().restarts, 0, "{architecture}");
    }
}

#[test]
fn a_run_that_started_anew_resumes_to_the_same_bits() {
    let (whole, reports) = train(recipe("topk", TOO_HIGH, true));
    let restarted = reports.iter().position(|r| r.restarts > 0).unwrap();
    // Once between two looks that find a high FVU, and once after the new start.
    for stop in [restarted - 5, restarted + 3] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("checkpoint");
        let recipe = recipe("topk", TOO_HIGH, true);
        let mut first = TrainingRun::new(&[recipe], source(), &Device::flex()).unwrap();
        for _ in 0..stop {
            first.step().unwrap();
        }
        first.save_checkpoint(&checkpoint).unwrap();
        let mut second = TrainingRun::resume(&checkpoint, source(), &Device::flex()).unwrap();
        assert_eq!(rest(&mut second), reports[stop..], "after step {stop}");
        let weights = |run: &TrainingRun| {
            let coder = run.finish(0).unwrap().coder;
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            bits(coder.w_dec().try_into_vec_as().unwrap())
        };
        assert_eq!(weights(&second), weights(&whole), "after step {stop}");
    }
}
