//! What quantization does to codes and reconstructions, on a sample of a store's activations.

use std::ops::Range;
use std::time::{Duration, Instant};

use burn::tensor::{Tensor, TensorData};
use lapidary_activations::Store;
use lapidary_coder::{AnyCoder, Coder, Dictionary, host};
use lapidary_evaluation::{HostCodes, ReconstructionSums};
use lapidary_kernels::SparseCodes;
use serde::Serialize;

use crate::error::{Context, Result, bail, ensure};
use crate::progress::{Progress, Stage};

/// Successive rows that are read and encoded at once.
const BATCH: u64 = 512;

/// Codes and reconstructions before and after quantization.
#[derive(Clone, Debug, Serialize)]
pub struct Effect {
    /// Where the activations are.
    pub activations: String,
    /// Rows that were encoded.
    pub rows: u64,
    /// Active latents per row before.
    pub l0_before: f64,
    /// Active latents per row after.
    pub l0_after: f64,
    /// Latents active before and after, over those active before or after: mean over rows. A row
    /// without an active latent counts as 1.
    pub support_jaccard: f64,
    /// Fraction of variance unexplained before.
    pub fvu_before: f64,
    /// Fraction of variance unexplained after.
    pub fvu_after: f64,
    /// The second of these minus the first.
    pub fvu_change: f64,
}

/// Encodes a sample of a store's rows with both dictionaries.
///
/// # Errors
/// The store lacks a hook point of the dictionary, its rows have another width, or it cannot be
/// read.
pub(crate) fn measure_effect(
    before: &Dictionary,
    after: &Dictionary,
    store: &Store,
    rows: u64,
    progress: &dyn Progress,
) -> Result<Effect> {
    let hooks = Hooks::of(before, store)?;
    ensure!(
        store.rows() > 0,
        "{}: found no rows, expected at least 1",
        store.folder().display()
    );
    let rows = rows.clamp(1, store.rows());
    let stage = Stage::new(progress, "compare", rows);
    let (mut active, mut jaccard, mut done) = ([0_u64; 2], 0.0, 0);
    let mut errors = [ReconstructionSums::default(), ReconstructionSums::default()];
    let mut seconds = [Duration::ZERO; 2];
    for (number, range) in sample(store.rows(), rows).enumerate() {
        let n = (range.end - range.start) as usize;
        let input = read(store, &hooks.read, range.clone())?;
        let target = match &hooks.written {
            Some(written) => read(store, written, range)?,
            None => input.clone(),
        };
        let coders = [&before.coder, &after.coder];
        let input = TensorData::new(input, [n, before.coder.d_in()]);
        let x = Tensor::<2>::from_data(input, &before.coder.device());
        // The first encoding prepares the weights; and neither coder is always the first.
        if number == 0 {
            for coder in coders {
                encode(coder, &x);
            }
        }
        let order = if number % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut found: [Option<HostCodes>; 2] = [None, None];
        for at in order {
            let start = Instant::now();
            let (codes, read) = encode(coders[at], &x);
            seconds[at] += start.elapsed();
            let hat = host(&coders[at].reconstruct(codes, x.clone()))?;
            errors[at].observe(&target, &hat, before.coder.d_out(), &vec![true; n]);
            found[at] = Some(read);
        }
        if let [Some(first), Some(second)] = &found {
            for row in 0..n {
                let (first, second) = (support(first, row), support(second, row));
                active[0] += first.len() as u64;
                active[1] += second.len() as u64;
                jaccard += similarity(&first, &second);
            }
        }
        done += n as u64;
        stage.at(done, format!("{done} rows"));
    }
    let [fvu_before, fvu_after] = errors.map(|sums| sums.fvu());
    let [ours, theirs] = seconds.map(|time| time.as_secs_f64());
    stage.done(format!(
        "{done} rows; encoding took {ours:.2} s before and {theirs:.2} s after quantization"
    ));
    let per_row = |sum: f64| sum / done as f64;
    Ok(Effect {
        activations: store.folder().display().to_string(),
        rows: done,
        l0_before: per_row(active[0] as f64),
        l0_after: per_row(active[1] as f64),
        support_jaccard: per_row(jaccard),
        fvu_before,
        fvu_after,
        fvu_change: fvu_after - fvu_before,
    })
}

fn encode(coder: &AnyCoder, x: &Tensor<2>) -> (SparseCodes, HostCodes) {
    let codes = coder.encode(x.clone());
    let read = HostCodes::read(codes.clone());
    (codes, read)
}

/// The active latents of a row, sorted.
fn support(codes: &HostCodes, row: usize) -> Vec<i32> {
    let indices = codes.indices.chunks(codes.k.max(1)).nth(row);
    let indices = indices.unwrap_or_default().iter().copied();
    let mut active: Vec<i32> = indices.filter(|latent| *latent >= 0).collect();
    active.sort_unstable();
    active.dedup();
    active
}

/// The Jaccard index of two sorted lists.
fn similarity(a: &[i32], b: &[i32]) -> f64 {
    let both = a.iter().filter(|latent| b.binary_search(latent).is_ok());
    let both = both.count();
    match a.len() + b.len() - both {
        0 => 1.0,
        either => both as f64 / either as f64,
    }
}

/// `rows` of `all` rows, in batches that are spread evenly.
fn sample(all: u64, rows: u64) -> impl Iterator<Item = Range<u64>> {
    let batches = rows.div_ceil(BATCH);
    (0..batches).map(move |i| {
        let share = |n: u64, i: u64| (u128::from(n) * u128::from(i) / u128::from(batches)) as u64;
        let start = share(all, i);
        start..start + share(rows, i + 1) - share(rows, i)
    })
}

/// The hook points of a dictionary in a store.
struct Hooks {
    read: Vec<String>,
    /// None: those that are read.
    written: Option<Vec<String>>,
}

impl Hooks {
    fn of(dictionary: &Dictionary, store: &Store) -> Result<Self> {
        let sites = dictionary.sites();
        let folder = store.folder().display();
        if let Some(second) = sites.second_model() {
            bail!(
                "{folder}: a store holds the activations of one model, and the dictionary also reads those of `{second}`: leave out --activations"
            );
        }
        let mut read = sites.read();
        // Nothing else can be meant.
        if let ([], [only]) = (&read[..], store.hooks()) {
            read.push(only.name.clone());
        }
        ensure!(
            !read.is_empty(),
            "the files of the dictionary do not name its hook point: give --hook-point"
        );
        let written = sites.transcodes().then(|| sites.written());
        if written.as_ref().is_some_and(Vec::is_empty) {
            bail!(
                "the files of the dictionary do not name the hook point that it reconstructs: leave out --activations"
            );
        }
        let (d_in, d_out) = (dictionary.coder.d_in(), dictionary.coder.d_out());
        check(store, &read, d_in)?;
        if let Some(written) = &written {
            check(store, written, d_out)?;
        }
        Ok(Self { read, written })
    }
}

/// Refuses hook points that the store does not have, or whose activations have another width.
fn check(store: &Store, hooks: &[String], expected: usize) -> Result<()> {
    let mut width = 0;
    for hook in hooks {
        let (_, d) = store.hook(hook)?;
        width += d;
    }
    ensure!(
        width == expected,
        "{}: activations at {}: found width {width}, expected {expected}, that of the dictionary",
        store.folder().display(),
        hooks.join(", ")
    );
    Ok(())
}

/// The activations at hook points, side by side, `[n, d]`.
fn read(store: &Store, hooks: &[String], rows: Range<u64>) -> Result<Vec<f32>> {
    let n = (rows.end - rows.start) as usize;
    let mut parts = vec![];
    for hook in hooks {
        let values = store.read(hook, rows.clone())?;
        parts.push((values.len() / n.max(1), values));
    }
    if parts.len() == 1 {
        let (_, values) = parts.pop().context("the one part")?;
        return Ok(values);
    }
    let mut side_by_side = vec![];
    for row in 0..n {
        for (width, values) in &parts {
            side_by_side.extend_from_slice(&values[row * width..][..*width]);
        }
    }
    Ok(side_by_side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_as_many_rows_as_asked_for_and_none_twice() {
        for (all, rows) in [
            (1, 1),
            (512, 512),
            (513, 513),
            (10_000, 8192),
            (1 << 40, 3000),
        ] {
            let ranges: Vec<_> = sample(all, rows).collect();
            assert_eq!(ranges.iter().map(|r| r.end - r.start).sum::<u64>(), rows);
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
            assert!(
                ranges
                    .iter()
                    .all(|r| r.end <= all && r.end - r.start <= BATCH)
            );
        }
    }

    #[test]
    fn the_jaccard_index_is_common_latents_over_all() {
        assert_eq!(similarity(&[1, 2, 3], &[2, 3, 4, 5]), 0.4);
        assert_eq!(similarity(&[], &[]), 1.0);
        assert_eq!(similarity(&[1], &[]), 0.0);
    }
}
