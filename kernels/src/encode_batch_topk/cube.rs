//! BatchTopK in CubeCL: the rows' candidates come from TopK's kernel; they are read back, and the
//! codes uploaded.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::CubeElement;

use super::{EncodeBatchTopK, choose};
use crate::EncoderState;
use crate::encode_topk::EncodeTopK;
use crate::gpu::{dims2, empty, floats, upload};

impl EncodeBatchTopK for CubeBackend {
    fn batch_topk(
        x: CubeTensor,
        w_enc: CubeTensor,
        b_enc: CubeTensor,
        k: usize,
        state: &EncoderState,
    ) -> (CubeTensor, CubeTensor, f32) {
        let ([n, _], [latents, _]) = (dims2(&x), dims2(&w_enc));
        if n == 0 {
            let values = empty(&x, [0, 1], DType::F32);
            let indices = empty(&x, [0, 1], DType::I32);
            return (values, indices, 0.0);
        }
        let (x, w_enc, b_enc) = (floats(x), floats(w_enc), floats(b_enc));
        let (client, device) = (x.client.clone(), x.device.clone());
        let chosen = choose(n, k, latents, |rows, width| {
            let x = if rows.len() == n {
                x.clone()
            } else {
                let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
                let rows = upload(
                    &client,
                    &device,
                    i32::as_bytes(&rows),
                    [rows.len()],
                    DType::I32,
                );
                Self::float_select(x.clone(), 0, rows)
            };
            let (w_enc, b_enc) = (w_enc.clone(), b_enc.clone());
            let (values, indices) = Self::topk(x, w_enc, b_enc, width, state);
            let values = client.read_one_unchecked(values.handle);
            let indices = client.read_one_unchecked(indices.handle);
            let values = f32::from_bytes(&values).chunks_exact(width);
            values
                .zip(i32::from_bytes(&indices).chunks_exact(width))
                .map(|(values, indices)| {
                    values
                        .iter()
                        .copied()
                        .zip(indices.iter().copied())
                        .collect()
                })
                .collect()
        });
        let shape = [n, chosen.width];
        let values = f32::as_bytes(&chosen.values);
        let indices = i32::as_bytes(&chosen.indices);
        (
            upload(&client, &device, values, shape, DType::F32),
            upload(&client, &device, indices, shape, DType::I32),
            chosen.threshold,
        )
    }
}
