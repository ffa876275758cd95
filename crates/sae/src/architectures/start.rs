//! Where a coder with a penalty starts in a run that asks for a number of active latents
//! (`coder.target_l0`): with twice as many active in the first batch. Then reconstructions have a
//! fitting size from the first step on, and the controller has little to correct. It can raise the
//! penalty until fewer are active, but nothing surely makes more active.

use burn::tensor::Tensor;
use lapidary_coder::{Coder, SparseCoder};
use lapidary_kernels::encode_topk;

/// Latents active at the start, times the target.
const MORE: f64 = 2.0;
/// At most this many activations of the first batch decide.
const ROWS: usize = 1024;

/// The level that about [`MORE`] times `target` pre-activations per token of `x` `[n, d]` exceed:
/// the mean over tokens of the one that comes at that place, for each latent, `[d_sae]`. The
/// encoder's bias is named `bias`.
pub(super) fn level(coder: &SparseCoder, x: Tensor<2>, bias: &str, target: f64) -> Tensor<1> {
    let rows = x.dims()[0].min(ROWS);
    let x = coder.centre(x.narrow(0, 0, rows));
    let k = ((target * MORE).round() as usize).clamp(1, coder.d_sae());
    let state = coder.weights.encoder_state();
    let codes = encode_topk(x, coder.w_enc(), coder.vector(bias), k, state);
    codes
        .values
        .narrow(1, k - 1, 1)
        .mean()
        .expand([coder.d_sae()])
}

/// The coder with its bias, named `bias`, where about [`MORE`] × `target_l0` pre-activations
/// per token of `x` are above 0; as it is without a target.
pub(super) fn lowered(
    coder: SparseCoder,
    x: Tensor<2>,
    bias: &'static str,
    target_l0: Option<f64>,
) -> SparseCoder {
    let Some(target) = target_l0 else {
        return coder;
    };
    let lower = coder.vector(bias) - level(&coder, x, bias, target);
    let weights = coder.weights.with(bias, lower);
    SparseCoder { weights, ..coder }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use lapidary_coder::{Architecture, Weights};

    use super::*;

    #[test]
    fn twice_the_target_are_active_at_the_start() {
        let device = Device::flex();
        device.seed(5);
        let (d, latents, target) = (16, 128, 8.0);
        let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (x, rows) = (random([512, d]), random([latents, d]));
        let zeros = |n| Tensor::<1>::zeros([n], &device);
        let coder = SparseCoder {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: true,
            weights: Weights::new([
                ("w_enc", rows.clone().into()),
                ("b_enc", zeros(latents).into()),
                ("w_dec", rows.into()),
                ("b_dec", zeros(d).into()),
            ]),
        };
        let active = |target_l0: Option<f64>| {
            let coder = lowered(coder.clone(), x.clone(), "b_enc", target_l0);
            let z = x.clone().matmul(coder.w_enc().transpose()) + coder.b_enc().unsqueeze();
            let all: f32 = z.greater_elem(0.0).float().sum().into_scalar();
            f64::from(all) / 512.0
        };
        let with = active(Some(target));
        assert!((with / (2.0 * target) - 1.0).abs() < 0.1, "{with}");
        let without = active(None);
        assert!(
            (without / (latents as f64 / 2.0) - 1.0).abs() < 0.1,
            "{without}"
        );
    }
}
