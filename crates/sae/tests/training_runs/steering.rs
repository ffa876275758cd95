//! The thresholds of a JumpReLU coder with a target L0 move even if the learning rate is nearly 0,
//! with which no gradient moves them.

use burn::tensor::{Device, Distribution, Tensor};
use lapidary_activations::ActivationMatrix;
use lapidary_sae::{Recipe, TrainingRun};

#[test]
fn thresholds_alone_bring_l0_to_its_target() {
    let device = Device::flex();
    device.seed(1);
    let rows = Tensor::<2>::random([4096, 16], Distribution::Normal(0.0, 1.0), &device);
    for (target, start) in [(4.0, 0.01), (20.0, 1.0)] {
        let settings = [
            "coder.architecture=jumprelu".to_owned(),
            "coder.d_sae=64".to_owned(),
            format!("coder.target_l0={target}"),
            format!("coder.jumprelu.initial_threshold={start}"),
            "training.tokens=102400".to_owned(), // 400 steps
            "training.batch_tokens=256".to_owned(),
            "training.lr=1e-9".to_owned(),
            "training.log_every_steps=1".to_owned(),
        ];
        let recipe = Recipe::with_defaults(&settings).unwrap();
        let source = ActivationMatrix::new(rows.clone(), 256, 5).unwrap();
        let mut run = TrainingRun::new(&[recipe], Box::new(source), &device).unwrap();
        let mut l0s = vec![];
        run.run(&mut |_, report| l0s.push(report.l0)).unwrap();
        let end = l0s[l0s.len() - 20..].iter().sum::<f64>() / 20.0;
        println!("target {target}: from {} to {end}", l0s[0]);
        assert!((l0s[0] / target - 1.0).abs() > 0.5, "{}", l0s[0]);
        assert!((end / target - 1.0).abs() < 0.05, "{end}");
    }
}
