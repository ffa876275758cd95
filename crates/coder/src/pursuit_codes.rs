//! A pursuit's steps as codes.

use burn::tensor::{Int, Tensor, TensorData};
use lapidary_kernels::{Pursued, SparseCodes};
use rayon::prelude::*;

/// The rows' codes, as wide as the fullest row: each atom once with the sum of its values, largest
/// magnitude first, of equal ones the lower index. What a narrower row has left are other atoms,
/// with 0.
#[must_use]
pub fn codes(pursued: &Pursued, latents: usize) -> SparseCodes {
    let [n, k] = pursued.atoms.dims();
    let device = pursued.values.device();
    let atoms = pursued.atoms.to_data();
    let values = pursued.values.to_data();
    let (atoms, values): (Vec<i32>, Vec<f32>) = (atoms.iter().collect(), values.iter().collect());
    let codes: Vec<Vec<(i32, f32)>> = atoms
        .par_chunks_exact(k.max(1))
        .zip(values.par_chunks_exact(k.max(1)))
        .map(|(atoms, values)| of_row(atoms, values))
        .collect();
    let width = codes.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let (mut values, mut indices) = (vec![0.0f32; n * width], vec![0i32; n * width]);
    let rows = values
        .par_chunks_exact_mut(width)
        .zip(indices.par_chunks_exact_mut(width));
    rows.zip(&codes).for_each(|((values, indices), codes)| {
        for ((value, index), code) in values.iter_mut().zip(&mut *indices).zip(codes) {
            (*index, *value) = *code;
        }
        let others = (0..latents as i32).filter(|l| codes.iter().all(|(latent, _)| latent != l));
        for (index, other) in indices[codes.len()..].iter_mut().zip(others) {
            *index = other;
        }
    });
    SparseCodes {
        values: Tensor::from_data(TensorData::new(values, [n, width]), &device),
        indices: Tensor::<2, Int>::from_data(TensorData::new(indices, [n, width]), &device),
    }
}

fn of_row(atoms: &[i32], values: &[f32]) -> Vec<(i32, f32)> {
    let mut codes: Vec<(i32, f32)> = Vec::with_capacity(atoms.len());
    for (atom, value) in atoms.iter().zip(values).filter(|(atom, _)| **atom >= 0) {
        match codes.iter_mut().find(|(a, _)| a == atom) {
            Some((_, sum)) => *sum += value,
            None => codes.push((*atom, *value)),
        }
    }
    codes.retain(|(_, value)| *value != 0.0);
    codes.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atom_that_was_taken_again_stands_once_and_padding_is_of_others() {
        let device = burn::tensor::Device::flex();
        let pursued = Pursued {
            atoms: Tensor::from_ints([[2, 0, 2, -1], [1, 3, 0, 2], [-1, -1, -1, -1]], &device),
            values: Tensor::from_floats(
                [[1.0, 2.5, 2.0, 0.0], [1.0, -4.0, 1.0, 0.0], [0.0; 4]],
                &device,
            ),
            residual: Tensor::zeros([3, 2], &device),
        };
        let codes = codes(&pursued, 4);
        let (values, indices) = (codes.values.to_data(), codes.indices.to_data());
        assert_eq!(
            values.iter::<f32>().collect::<Vec<_>>(),
            [3.0, 2.5, 0.0, -4.0, 1.0, 1.0, 0.0, 0.0, 0.0]
        );
        assert_eq!(
            indices.iter::<i32>().collect::<Vec<_>>(),
            [2, 0, 1, 3, 0, 1, 0, 1, 2]
        );
    }
}
