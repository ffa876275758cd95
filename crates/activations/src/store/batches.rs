//! Shuffled batches out of a store, without loading it.
//!
//! A pass cuts the store into runs of consecutive rows, puts all runs into a random order, and
//! takes them a window at a time; within a window rows are in a random order. So a window's rows
//! come from everywhere in the text, and a batch has about `batch · run / window` rows of each run
//! in it. Every row comes once a pass. Which row comes when follows from the seed alone, so the
//! place in the pass is all that resuming needs. The next window is read while this one is used:
//! two are in memory, in the store's dtype.

use super::manifest::wrong;
use super::reader::{RawRows, Store};
use crate::state_files::{read_json, write_json};
use crate::{ActivationsError, BatchSource, Normalization, NormalizationKind};
use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Rows of a run, unless the window holds fewer than [`RUNS`] of those.
const RUN: u64 = 128;
/// Rows that a thread decodes at once, at least.
const ROWS: usize = 64;
/// Runs that a window has at least, so that a batch is never a piece of text.
const RUNS: u64 = 64;

/// A store's rows at one hook point or several as a trainer's source.
pub struct StoreBatches {
    plan: Plan,
    batch: usize,
    /// One a hook point.
    normalizations: Vec<Normalization>,
    device: Device,
    pass: u64,
    number: u64,
    window: Window,
    /// Rows of the window that were handed out.
    used: usize,
    next: Option<JoinHandle<Result<Window, ActivationsError>>>,
}

/// What decides the order of the rows.
#[derive(Clone)]
struct Plan {
    store: Arc<Store>,
    /// The hook points by number, with their widths.
    hooks: Vec<(usize, usize)>,
    seed: u64,
    run: u64,
    /// Runs a window.
    runs: u64,
}

/// Rows on disk, in memory, and the order in which they come.
#[derive(Default)]
struct Window {
    /// One a hook point.
    raw: Vec<RawRows>,
    order: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct State {
    /// XXH64 of the store's manifest.
    store: String,
    hook_points: Vec<String>,
    seed: u64,
    window_tokens: u64,
    pass: u64,
    window: u64,
    used: usize,
    normalizations: Vec<Normalization>,
}

impl Plan {
    fn rows(&self) -> u64 {
        self.store.rows()
    }

    fn windows(&self) -> u64 {
        self.rows().div_ceil(self.run).div_ceil(self.runs)
    }

    /// Each pass and each window has a random stream of its own.
    fn rng(&self, pass: u64, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((pass << 32) | stream);
        rng
    }

    fn window(
        &self,
        pass: u64,
        number: u64,
        mut window: Window,
    ) -> Result<Window, ActivationsError> {
        let count = self.rows().div_ceil(self.run);
        let mut runs: Vec<u32> = (0..count as u32).collect();
        runs.shuffle(&mut self.rng(pass, 0));
        // All windows are of about one size: a small last one would be little mixed.
        let bound = |number: u64| {
            (u128::from(number) * u128::from(count) / u128::from(self.windows())) as usize
        };
        let rows = |run: &u32| {
            let start = u64::from(*run) * self.run;
            start..(start + self.run).min(self.rows())
        };
        let ranges: Vec<Range<u64>> = runs[bound(number)..bound(number + 1)]
            .iter()
            .map(rows)
            .collect();
        window.raw.resize_with(self.hooks.len(), RawRows::default);
        for ((hook, _), raw) in self.hooks.iter().zip(&mut window.raw) {
            self.store.read_raw(*hook, &ranges, raw)?;
        }
        let rows: u64 = ranges.iter().map(|r| r.end - r.start).sum();
        window.order = (0..rows as u32).collect();
        window.order.shuffle(&mut self.rng(pass, number + 1));
        Ok(window)
    }

    /// Rows of a window at a hook point in f32, normalized; how many of their values are not
    /// finite.
    fn decode(
        &self,
        end: usize,
        window: &Window,
        order: &[u32],
        normalization: &Normalization,
        out: &mut [f32],
    ) -> usize {
        let (hook, d) = self.hooks[end];
        out.par_chunks_exact_mut(d)
            .zip(order)
            .with_min_len(ROWS)
            .map(|(row, i)| {
                self.store
                    .decode_row(hook, &window.raw[end], *i as usize, row);
                let count = row.iter().filter(|v| !v.is_finite()).count();
                normalization.apply(row);
                count
            })
            .sum()
    }
}

impl StoreBatches {
    /// Batches of `batch` rows at hook points, shuffled in windows of about `window_tokens` rows;
    /// the normalization is estimated from the first window.
    ///
    /// # Errors
    /// When the store lacks a hook point, holds fewer rows than a batch, or cannot be read; when a
    /// window does not fit into memory.
    pub fn new(
        store: Arc<Store>,
        hooks: &[&str],
        batch: usize,
        window_tokens: usize,
        normalization: NormalizationKind,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ActivationsError> {
        let mut source = Self::unread(store, hooks, batch, window_tokens, seed, device)?;
        source.window = source.plan.window(0, 0, Window::default())?;
        if normalization != NormalizationKind::None {
            let (window, plan) = (&source.window, &source.plan);
            for (end, known) in source.normalizations.iter_mut().enumerate() {
                let d = plan.hooks[end].1;
                let mut rows = vec![0.0; window.order.len() * d];
                plan.decode(end, window, &window.order, known, &mut rows);
                *known = Normalization::estimate(normalization, rows.chunks_exact(d), d)?;
            }
        }
        source.read_ahead(Window::default());
        Ok(source)
    }

    /// A source for [`BatchSource::restore`]: nothing is read until then.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn unread(
        store: Arc<Store>,
        hooks: &[&str],
        batch: usize,
        window_tokens: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ActivationsError> {
        let hooks = hooks.iter().map(|hook| store.hook(hook));
        let hooks: Vec<(usize, usize)> = hooks.collect::<Result<_, _>>()?;
        let d: usize = hooks.iter().map(|(_, d)| d).sum();
        let rows = store.rows();
        if batch == 0 || rows < batch as u64 {
            return Err(wrong(
                store.folder(),
                "rows",
                rows.to_string(),
                format!("at least a batch, {batch}"),
            ));
        }
        let window_tokens = (window_tokens.max(batch) as u64).min(rows);
        let run = (window_tokens / RUNS).clamp(1, RUN);
        let runs = window_tokens / run;
        let no_room = || ActivationsError::Buffer {
            tokens: window_tokens as usize,
            d_in: d,
        };
        // Two windows must fit, and their rows and runs be counted in 32 bits.
        let counted =
            u32::try_from(window_tokens).is_ok() && u32::try_from(rows.div_ceil(run)).is_ok();
        let bytes = window_tokens as usize * d * store.dtype().bytes();
        if !counted
            || Vec::<u8>::new()
                .try_reserve_exact(bytes.saturating_mul(2))
                .is_err()
        {
            return Err(no_room());
        }
        Ok(Self {
            plan: Plan {
                store,
                hooks: hooks.clone(),
                seed,
                run,
                runs,
            },
            batch,
            normalizations: hooks
                .iter()
                .map(|(_, d)| Normalization::identity(*d))
                .collect(),
            device: device.clone(),
            pass: 0,
            number: 0,
            window: Window::default(),
            used: 0,
            next: None,
        })
    }

    fn following(&self) -> (u64, u64) {
        match self.number + 1 < self.plan.windows() {
            true => (self.pass, self.number + 1),
            false => (self.pass + 1, 0),
        }
    }

    /// Reads the next window in the background, into the memory of an old one.
    fn read_ahead(&mut self, old: Window) {
        let (pass, number) = self.following();
        let plan = self.plan.clone();
        self.next = Some(std::thread::spawn(move || plan.window(pass, number, old)));
    }

    fn turn(&mut self) -> Result<(), ActivationsError> {
        let (pass, number) = self.following();
        let window = match self.next.take() {
            Some(thread) => thread.join().expect("reading does not panic")?,
            None => self.plan.window(pass, number, Window::default())?,
        };
        let old = std::mem::replace(&mut self.window, window);
        (self.pass, self.number, self.used) = (pass, number, 0);
        self.read_ahead(old);
        Ok(())
    }

    fn identity(&self) -> (String, Vec<String>, u64, u64) {
        let store = &self.plan.store;
        let name = |(hook, _): &(usize, usize)| store.hooks()[*hook].name.clone();
        (
            store.digest().into(),
            self.plan.hooks.iter().map(name).collect(),
            self.plan.seed,
            self.plan.run * self.plan.runs,
        )
    }
}

impl Drop for StoreBatches {
    fn drop(&mut self) {
        // Else it would go on reading for nobody.
        if let Some(thread) = self.next.take() {
            drop(thread.join());
        }
    }
}

impl BatchSource for StoreBatches {
    fn normalizations(&self) -> &[Normalization] {
        &self.normalizations
    }

    fn passes(&self) -> u64 {
        self.pass
    }

    fn next_batch(&mut self) -> Result<Vec<Tensor<2>>, ActivationsError> {
        let widths: Vec<usize> = self.plan.hooks.iter().map(|(_, d)| *d).collect();
        let room = |d: &usize| vec![0.0; self.batch * d];
        let mut rows: Vec<Vec<f32>> = widths.iter().map(room).collect();
        let mut filled = 0_usize;
        let mut counts = vec![0_usize; widths.len()];
        while filled < self.batch {
            if self.used == self.window.order.len() {
                self.turn()?;
            }
            let n = (self.batch - filled).min(self.window.order.len() - self.used);
            let order = &self.window.order[self.used..self.used + n];
            for (end, d) in widths.iter().enumerate() {
                let out = &mut rows[end][filled * d..(filled + n) * d];
                let (window, normalization) = (&self.window, &self.normalizations[end]);
                counts[end] += self.plan.decode(end, window, order, normalization, out);
            }
            self.used += n;
            filled += n;
        }
        if let Some(end) = counts.iter().position(|count| *count > 0) {
            let (hook, count) = (self.identity().1.swap_remove(end), counts[end]);
            return Err(ActivationsError::NotFinite { hook, count });
        }
        let tensor =
            |(rows, d)| Tensor::from_data(TensorData::new(rows, [self.batch, d]), &self.device);
        Ok(rows.into_iter().zip(widths).map(tensor).collect())
    }

    fn save(&self, dir: &Path) -> Result<(), ActivationsError> {
        let (store, hook_points, seed, window_tokens) = self.identity();
        let state = State {
            store,
            hook_points,
            seed,
            window_tokens,
            pass: self.pass,
            window: self.number,
            used: self.used,
            normalizations: self.normalizations.clone(),
        };
        write_json(&dir.join("stream.json"), &state)
    }

    fn restore(&mut self, dir: &Path) -> Result<(), ActivationsError> {
        let path = dir.join("stream.json");
        let state: State = read_json(&path)?;
        let here = self.identity();
        let there = (
            state.store,
            state.hook_points,
            state.seed,
            state.window_tokens,
        );
        if here != there {
            let problem = format!(
                "was written by a run on store, hook points, seed, window = {there:?}; this run has {here:?}"
            );
            return Err(ActivationsError::Checkpoint { path, problem });
        }
        let window = match state.window < self.plan.windows() && state.pass < u64::from(u32::MAX) {
            true => self
                .plan
                .window(state.pass, state.window, Window::default())?,
            false => Window::default(),
        };
        if state.used > window.order.len() {
            return Err(ActivationsError::damaged_checkpoint(
                path,
                "rows used of the window",
                state.used,
                &format!("at most {}", window.order.len()),
            ));
        }
        let widths = state.normalizations.iter().map(|n| n.mean.len());
        let widths: Vec<usize> = widths.collect();
        let expected: Vec<usize> = self.plan.hooks.iter().map(|(_, d)| *d).collect();
        if widths != expected {
            return Err(ActivationsError::damaged_checkpoint(
                path,
                "widths of the normalizations",
                format_args!("{widths:?}"),
                &format!("{expected:?}"),
            ));
        }
        (self.pass, self.number, self.used) = (state.pass, state.window, state.used);
        self.window = window;
        self.normalizations = state.normalizations;
        self.read_ahead(Window::default());
        Ok(())
    }
}
