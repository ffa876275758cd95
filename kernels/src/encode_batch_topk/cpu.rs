//! BatchTopK on the CPU: the rows' candidates come from TopK's own tiles.

use burn::backend::Flex;
use burn_flex::FlexTensor;

use super::{EncodeBatchTopK, choose};
use crate::EncoderState;
use crate::encode_topk::cpu::topk_of_rows;
use crate::host::{contiguous, dims2, float_tensor, floats, int_tensor};

impl EncodeBatchTopK for Flex {
    fn batch_topk(
        x: FlexTensor,
        w_enc: FlexTensor,
        b_enc: FlexTensor,
        k: usize,
        state: &EncoderState,
    ) -> (FlexTensor, FlexTensor, f32) {
        let ([n, d], [latents, _]) = (dims2(&x), dims2(&w_enc));
        let (x, w_enc, b_enc) = (contiguous(x), contiguous(w_enc), contiguous(b_enc));
        let (x, w_enc, b_enc) = (floats(&x), floats(&w_enc), floats(&b_enc));
        let chosen = choose(n, k, latents, |rows, width| {
            let gathered: Vec<f32>;
            let x = if rows.len() == n {
                x
            } else {
                gathered = rows
                    .iter()
                    .flat_map(|&row| &x[row * d..][..d])
                    .copied()
                    .collect();
                &gathered
            };
            topk_of_rows(x, w_enc, b_enc, d, width, state)
                .chunks_exact(width)
                .map(|row| {
                    row.iter()
                        .map(|best| (best.value(), best.latent()))
                        .collect()
                })
                .collect()
        });
        let shape = [n, chosen.width];
        (
            float_tensor(chosen.values, shape),
            int_tensor(chosen.indices, shape),
            chosen.threshold,
        )
    }
}
