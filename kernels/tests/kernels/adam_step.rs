use burn::tensor::{Device, Tensor};
use lapidary_kernels::{AdamStep, Moments, adam_step};

use crate::reference::{Matrix, assert_close, devices, floats};

fn settings(step: u64) -> AdamStep {
    AdamStep {
        lr: 3e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        step,
    }
}

/// The paper's update on one number.
fn scalar_step([p, m, v]: [f64; 3], g: f64, s: &AdamStep) -> [f64; 3] {
    let (beta1, beta2) = (f64::from(s.beta1), f64::from(s.beta2));
    let (lr, eps) = (f64::from(s.lr), f64::from(s.eps));
    let m = beta1 * m + (1.0 - beta1) * g;
    let v = beta2 * v + (1.0 - beta2) * g * g;
    let m_hat = m / (1.0 - beta1.powi(s.step as i32));
    let v_hat = v / (1.0 - beta2.powi(s.step as i32));
    let p = p - lr * f64::from(s.weight_decay) * p - lr * m_hat / (v_hat.sqrt() + eps);
    [p, m, v]
}

#[test]
fn twenty_updates_follow_the_scalar_reference() {
    for device in devices() {
        for (rows, columns) in [(1, 1), (37, 53), (130, 257)] {
            let start = Matrix::uniform(1, rows, columns);
            let mut expected: Vec<[f64; 3]> = start
                .numbers
                .iter()
                .map(|&p| [f64::from(p), 0.0, 0.0])
                .collect();
            let mut param = start.on(&device);
            let mut moments = Moments {
                m: param.zeros_like(),
                v: param.zeros_like(),
            };
            for step in 1..=20 {
                let grad = Matrix::uniform(100 + step, rows, columns);
                let s = settings(step);
                (param, moments) = adam_step(param, grad.on(&device), moments, &s);
                for (state, &g) in expected.iter_mut().zip(&grad.numbers) {
                    *state = scalar_step(*state, f64::from(g), &s);
                }
            }
            let [p, m, v] = [0, 1, 2].map(|which| {
                expected
                    .iter()
                    .map(|state| state[which])
                    .collect::<Vec<_>>()
            });
            assert_close(&floats(param), &p, 2e-6);
            assert_close(&floats(moments.m), &m, 1e-6);
            assert_close(&floats(moments.v), &v, 1e-6);
        }
    }
}

#[test]
fn tensors_that_others_hold_are_left_alone() {
    for device in devices() {
        let start = Matrix::uniform(2, 5, 7);
        let param = start.on(&device);
        let moments = Moments {
            m: param.zeros_like(),
            v: param.zeros_like(),
        };
        let held = (param.clone(), moments.clone());
        let (updated, _) = adam_step(
            param,
            Matrix::uniform(3, 5, 7).on(&device),
            moments,
            &settings(1),
        );
        assert_eq!(floats(held.0), start.numbers);
        assert_eq!(floats(held.1.m), [0.0; 35]);
        assert_eq!(floats(held.1.v), [0.0; 35]);
        assert_ne!(floats(updated), start.numbers);
    }
}

#[test]
fn views_are_updated_as_what_they_show() {
    for device in devices() {
        let start = Matrix::uniform(4, 6, 8);
        let grad = Matrix::uniform(5, 8, 6);
        let zeros = || Moments {
            m: Tensor::zeros([8, 6], &device),
            v: Tensor::zeros([8, 6], &device),
        };
        let copied = Tensor::<2>::from_data(start.on(&device).transpose().into_data(), &device);
        let (of_copy, _) = adam_step(copied, grad.on(&device), zeros(), &settings(1));
        let view = start.on(&device).transpose();
        let (of_view, _) = adam_step(view, grad.on(&device), zeros(), &settings(1));
        assert_eq!(floats(of_copy), floats(of_view));
    }
}

#[test]
fn vectors_and_tracked_parameters_are_updated_too() {
    for device in devices() {
        let tracked = device.clone().autodiff();
        let param = Tensor::<1>::from_floats([1.0, -2.0], &tracked).require_grad();
        let grads = param.clone().square().sum().backward();
        let grad = param.grad(&grads).unwrap();
        let moments = Moments {
            m: Tensor::zeros([2], &device),
            v: Tensor::zeros([2], &device),
        };
        let s = AdamStep {
            weight_decay: 0.0,
            ..settings(1)
        };
        let (param, _) = adam_step(param, grad, moments, &s);
        // The first step has the size of the learning rate, against the gradient's sign.
        assert_close(&floats(param), &[1.0 - 3e-3, -2.0 + 3e-3], 1e-6);
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    for device in devices() {
        let run = || {
            let param = Matrix::uniform(6, 90, 200).on(&device);
            let moments = Moments {
                m: Matrix::uniform(7, 90, 200).on(&device),
                v: Matrix::uniform(8, 90, 200).on(&device).abs(),
            };
            let grad = Matrix::uniform(9, 90, 200).on(&device);
            let (param, moments) = adam_step(param, grad, moments, &settings(3));
            [param, moments.m, moments.v].map(|tensor| {
                floats(tensor)
                    .into_iter()
                    .map(f32::to_bits)
                    .collect::<Vec<_>>()
            })
        };
        assert!(run() == run(), "two runs differ on {device:?}");
    }
}

#[test]
#[should_panic(expected = "counts its steps from 1")]
fn step_nought_is_refused() {
    let device = Device::flex();
    let zeros = || Tensor::<1>::zeros([1], &device);
    let moments = Moments {
        m: zeros(),
        v: zeros(),
    };
    adam_step(zeros(), zeros(), moments, &settings(0));
}
