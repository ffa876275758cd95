//! In CubeCL, for WGPU and CUDA: a product with one row, for which a matrix product keeps few units
//! busy. Each cube adds a run of rows, and the cubes' sums are added in the same way, until one is
//! left.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::WeightedSum;
use crate::gpu::{Rows, UNITS, cubes, dims2, empty, floats, shaped, zeros};

/// Rows that a cube adds at most.
const RUN: usize = 64;

impl WeightedSum for CubeBackend {
    fn weighted_sum(weights: CubeTensor, rows: CubeTensor) -> CubeTensor {
        let ([mut count, d], weights) = (dims2(&rows), floats(weights));
        let mut rows = floats(rows);
        let mut weighted = true;
        if count == 0 || d == 0 {
            return zeros(&rows, [d]);
        }
        loop {
            let runs = count.div_ceil(RUN);
            let sums = empty(&rows, [runs, d], DType::F32);
            add_runs::launch(
                &rows.client.clone(),
                cubes(runs * d.div_ceil(UNITS as usize)),
                CubeDim::new_1d(UNITS),
                weights.clone().rows(),
                rows.rows(),
                sums.clone().rows(),
                count,
                d,
                runs,
                weighted,
            );
            if runs == 1 {
                return shaped(sums, [d]);
            }
            (rows, count, weighted) = (sums, runs, false);
        }
    }
}

/// A cube adds one run in as many columns as it has units.
#[cube(launch)]
fn add_runs(
    weights: &[f32],  // [count]
    rows: &[f32],     // [count, d]
    sums: &mut [f32], // [runs, d]
    count: usize,
    d: usize,
    runs: usize,
    #[comptime] weighted: bool,
) {
    let blocks = d.div_ceil(UNITS as usize);
    let mut at = CUBE_POS;
    while at < runs * blocks {
        let run = at / blocks;
        let column = at % blocks * UNITS as usize + UNIT_POS as usize;
        let first = run * RUN;
        let mut end = first + RUN;
        if end > count {
            end = count;
        }
        if column < d {
            let mut sum = 0.0f32;
            for row in first..end {
                let number = rows[row * d + column];
                if comptime!(weighted) {
                    sum += weights[row] * number;
                } else {
                    sum += number;
                }
            }
            sums[run * d + column] = sum;
        }
        at += CUBE_COUNT;
    }
}
