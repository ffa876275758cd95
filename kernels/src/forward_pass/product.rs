//! Dense products: of small matrices anywhere in memory, by one thread, and the wide one of an
//! unembedding.

use burn_flex::FlexTensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::Rows;
use crate::host::float_tensor;

/// Most rows, and the columns of a tile. A tile is made in cache and copied out: written in place,
/// its rows would lie a whole row of the result apart, which for vocabularies of round sizes is
/// always the same few sets of the cache.
const ROWS: usize = 128;
const COLUMNS: usize = 512;

/// `x · wᵀ` for `x` `[n, d]` and `w` `[m, d]`, a task for every [`ROWS`] rows of `x`, or a quarter
/// of them where there are few. How rows are divided depends on `n` alone, so that any number of
/// threads gives the same bits.
pub(super) fn wide(x: FlexTensor, w: FlexTensor) -> FlexTensor {
    let (x, w) = (Rows::of(x), Rows::of(w));
    let (n, d, m) = (x.n, x.width, w.n);
    let together = (n / 4).next_multiple_of(8).clamp(8, ROWS);
    let mut out = vec![0.0; n * m]; // [n, m]
    out.par_chunks_mut((together * m).max(1))
        .enumerate()
        .for_each_init(
            || vec![0.0; together * COLUMNS],
            |tile, (block, out)| {
                let rows = out.len() / m;
                let x = Matrix {
                    data: &x.data()[block * together * x.stride..],
                    row: x.stride,
                    column: 1,
                };
                for from in (0..m).step_by(COLUMNS) {
                    let columns = COLUMNS.min(m - from);
                    let w = Matrix {
                        data: &w.data()[from * w.stride..],
                        row: 1,
                        column: w.stride,
                    };
                    let tile = &mut tile[..rows * columns];
                    product(x, w, [rows, d, columns], tile, columns);
                    for (out, tile) in out.chunks_exact_mut(m).zip(tile.chunks_exact(columns)) {
                        out[from..from + columns].copy_from_slice(tile);
                    }
                }
            },
        );
    float_tensor(out, [n, m])
}

/// Numbers with a distance between rows and one between columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub column: usize,
}

impl Matrix<'_> {
    /// Rows for columns.
    pub fn transposed(self) -> Self {
        Self {
            row: self.column,
            column: self.row,
            ..self
        }
    }

    /// Whether the last element lies within the data, and so all do.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        let (Some(rows), Some(columns)) = (rows.checked_sub(1), columns.checked_sub(1)) else {
            return true; // none
        };
        let row = rows.checked_mul(self.row);
        let column = columns.checked_mul(self.column);
        row.zip(column)
            .and_then(|(row, column)| row.checked_add(column))
            .is_some_and(|last| last < self.data.len())
    }
}

/// `out = a · b` for `a` `[n, m]` and `b` `[m, p]`; rows of `out` are `row` apart.
pub(crate) fn product(
    a: Matrix<'_>,
    b: Matrix<'_>,
    [n, m, p]: [usize; 3],
    out: &mut [f32],
    row: usize,
) {
    assert!(a.holds(n, m) && b.holds(m, p));
    let held = Matrix {
        data: out,
        row,
        column: 1,
    };
    assert!(held.holds(n, p) && row >= p);
    // SAFETY: as asserted, a, b and out hold their last element, and so all, at the given
    // distances; rows of out do not overlap; out is exclusively ours and is only written.
    unsafe {
        gemm::gemm(
            n,
            p,
            m,
            out.as_mut_ptr(),
            1,
            row as isize,
            false,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
