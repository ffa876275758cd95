//! Which entries of the codes belong to each latent, made on the device. Atomics hand out places in
//! any order, but each latent's list is then sorted, so that sums run in row order on every run.

// A kernel's loops run over indices: CubeCL compiles no slice iterators.
#![allow(clippy::needless_range_loop)]

use burn::tensor::{DType, IntDType};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::{Rows, UNITS, cubes, cubes_for_elements, dims2, empty, filled};

/// The entries other than 0 of codes `[n, k]`, numbered along the rows: those of latent f are
/// `entries[starts[f]..][..counts[f]]`, ascending. The latents' lists follow each other in any
/// order.
pub(crate) struct Grouping {
    /// `[n · k]`
    pub entries: CubeTensor,
    /// `[F]`
    pub starts: CubeTensor,
    /// `[F]`
    pub counts: CubeTensor,
}

impl Grouping {
    /// Of codes with at least one entry.
    pub(crate) fn new(values: &CubeTensor, indices: &CubeTensor, latents: usize) -> Self {
        let [n, k] = dims2(values);
        let total = n * k;
        let client = values.client.clone();
        let zeros = |count: usize| filled(values, [count], 0, IntDType::U32);
        let counts = zeros(latents);
        let ranks = empty(values, [total], DType::U32);
        count_entries::launch(
            &client,
            cubes_for_elements(total),
            CubeDim::new_1d(UNITS),
            values.clone().rows(),
            indices.clone().rows(),
            counts.clone().rows(),
            ranks.clone().rows(),
            total,
        );
        let starts = empty(values, [latents], DType::U32);
        reserve_places::launch(
            &client,
            cubes_for_elements(latents),
            CubeDim::new_1d(UNITS),
            counts.clone().rows(),
            zeros(1).rows(),
            starts.clone().rows(),
            latents,
        );
        let placed = empty(values, [total], DType::U32);
        place_entries::launch(
            &client,
            cubes_for_elements(total),
            CubeDim::new_1d(UNITS),
            values.clone().rows(),
            indices.clone().rows(),
            starts.clone().rows(),
            ranks.rows(),
            placed.clone().rows(),
            total,
        );
        let entries = empty(values, [total], DType::U32);
        sort_within_latents::launch(
            &client,
            cubes(latents),
            CubeDim::new_1d(UNITS),
            starts.clone().rows(),
            counts.clone().rows(),
            placed.rows(),
            entries.clone().rows(),
            latents,
        );
        Self {
            entries,
            starts,
            counts,
        }
    }

    /// The sum of each latent's values, `[F]`.
    pub(crate) fn sums(&self, values: CubeTensor) -> CubeTensor {
        let latents = self.counts.meta.num_elements();
        let sums = empty(&values, [latents], DType::F32);
        sum_lists::launch(
            &values.client.clone(),
            cubes_for_elements(latents),
            CubeDim::new_1d(UNITS),
            values.rows(),
            self.starts.clone().rows(),
            self.counts.clone().rows(),
            self.entries.clone().rows(),
            sums.clone().rows(),
            latents,
        );
        sums
    }
}

/// Counts each latent's entries; an entry's rank is how many came before it.
#[cube(launch)]
fn count_entries(
    values: &[f32],
    indices: &[i32],
    counts: &[Atomic<u32>],
    ranks: &mut [u32],
    total: usize,
) {
    let mut at = ABSOLUTE_POS;
    while at < total {
        if values[at] != 0.0f32 {
            ranks[at] = counts[indices[at] as usize].fetch_add(1u32);
        }
        at += CUBE_COUNT * UNITS as usize;
    }
}

/// Gives each latent as many places as it has entries. A cube reserves those of its latents at
/// once.
#[cube(launch)]
fn reserve_places(counts: &[u32], next: &[Atomic<u32>], starts: &mut [u32], latents: usize) {
    let taken = Shared::<[Atomic<u32>]>::new_slice(1usize);
    let mut base = Shared::<[u32]>::new_slice(1usize);
    let mut first = CUBE_POS * UNITS as usize;
    while first < latents {
        if UNIT_POS == 0 {
            taken[0].store(0u32);
        }
        sync_cube();
        let latent = first + UNIT_POS as usize;
        let mut place = 0u32;
        if latent < latents {
            place = taken[0].fetch_add(counts[latent]);
        }
        sync_cube();
        if UNIT_POS == 0 {
            base[0] = next[0].fetch_add(taken[0].load());
        }
        sync_cube();
        if latent < latents {
            starts[latent] = base[0] + place;
        }
        sync_cube();
        first += CUBE_COUNT * UNITS as usize;
    }
}

#[cube(launch)]
fn place_entries(
    values: &[f32],
    indices: &[i32],
    starts: &[u32],
    ranks: &[u32],
    placed: &mut [u32],
    total: usize,
) {
    let mut at = ABSOLUTE_POS;
    while at < total {
        if values[at] != 0.0f32 {
            placed[(starts[indices[at] as usize] + ranks[at]) as usize] = at as u32;
        }
        at += CUBE_COUNT * UNITS as usize;
    }
}

/// Each entry goes where the number of smaller entries in its latent says.
#[cube(launch)]
fn sort_within_latents(
    starts: &[u32],
    counts: &[u32],
    placed: &[u32],
    entries: &mut [u32],
    latents: usize,
) {
    let mut latent = CUBE_POS;
    while latent < latents {
        let start = starts[latent] as usize;
        let end = start + counts[latent] as usize;
        let mut at = start + UNIT_POS as usize;
        while at < end {
            let entry = placed[at];
            let mut place = start;
            for other in start..end {
                if placed[other] < entry {
                    place += 1;
                }
            }
            entries[place] = entry;
            at += UNITS as usize;
        }
        latent += CUBE_COUNT;
    }
}

#[cube(launch)]
fn sum_lists(
    values: &[f32],
    starts: &[u32],
    counts: &[u32],
    entries: &[u32],
    sums: &mut [f32],
    latents: usize,
) {
    let mut latent = ABSOLUTE_POS;
    while latent < latents {
        let start = starts[latent] as usize;
        let mut sum = 0.0f32;
        for at in start..start + counts[latent] as usize {
            sum += values[entries[at] as usize];
        }
        sums[latent] = sum;
        latent += CUBE_COUNT * UNITS as usize;
    }
}
