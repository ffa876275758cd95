//! Stub.
use burn::tensor::Tensor;
/// x
#[derive(Debug, Clone)]
pub struct Moments<const D: usize> {
    /// m
    pub m: Tensor<D>,
    /// v
    pub v: Tensor<D>,
}
/// x
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct AdamStep { pub lr: f32, pub beta1: f32, pub beta2: f32, pub eps: f32, pub weight_decay: f32, pub step: u64 }
/// x
pub fn adam_step<const D: usize>(p: Tensor<D>, g: Tensor<D>, m: Moments<D>, s: &AdamStep) -> (Tensor<D>, Moments<D>) {
    let mm = m.m * s.beta1 + g.clone() * (1.0 - s.beta1);
    let v = m.v * s.beta2 + g.square() * (1.0 - s.beta2);
    let c1 = 1.0 - (s.beta1 as f64).powi(s.step as i32);
    let c2 = 1.0 - (s.beta2 as f64).powi(s.step as i32);
    let update = (mm.clone() / c1) / ((v.clone() / c2).sqrt() + s.eps);
    let p = p.clone() * (1.0 - s.lr * s.weight_decay) - update * s.lr;
    (p, Moments { m: mm, v })
}
