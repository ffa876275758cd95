//! Correlations from 8-bit integers: AVX-512 with VNNI.

use rayon::prelude::*;
use std::arch::x86_64::*;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::approximate::{Approximate, Asked, Bounds, Gram, MOST, Reach, Sharp};
use crate::host::{Avx512, prefetch, widest_vectors};
use crate::integers::{
    BLOCK, DEPTH, LANES, PANELS, PARTS, Quantized, ROWS, WIDEST, quantize, round, round_twice,
    store_panel, sums_of, vector,
};
use crate::norms::{Norms, SUMS};

/// Fewest rows that pay for going over the atoms once more.
const FEWEST_ROWS: usize = 32;

/// Atoms on each side of a part of the Gram matrix that is made at a time.
const SET: usize = 2 * BLOCK;

/// Whether this way is open for `n` rows of width `d`.
pub(super) fn serves(n: usize, d: usize) -> bool {
    n >= FEWEST_ROWS && (LANES..=WIDEST).contains(&d)
}

/// All atoms in integers, padded to whole sets.
pub(super) struct Integers {
    /// 128 added, so that they are unsigned.
    rows: Vec<u8>, // [padded, steps, DEPTH]
    panels: Vec<i8>,  // [padded / LANES, steps, LANES, DEPTH]
    scales: Vec<f32>, // [padded]
    /// What adding 128 to the other side adds to sums of products.
    offsets: Vec<i32>, // [padded]
    bounds: Bounds,
    /// The mean and the largest of what they missed when they were new.
    missed: [f32; 2],
    gram: OnceLock<Gram>,
    /// Memory for it.
    room: Mutex<Vec<i16>>,
    steps: usize,
    d: usize,
}

/// The integers and the Gram matrix of the last pursuit of a dictionary, for its next one: while
/// training, atoms move by less in a step than 8 bits leave of them, and all that is asked of an
/// approximation is that what it misses be known. Empty while a pursuit uses them. Clones share
/// them.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Slot>);

type Slot = Mutex<Option<Box<Integers>>>;

/// Dictionaries whose integers are kept: those that train in turn, few, since a Gram matrix takes
/// up to 128 MiB.
const MOST_KEPT: usize = 2;

/// Which slots are full, the last one filled at the end. It keeps to [`MOST_KEPT`], and whose slot
/// is whose makes no difference to it.
struct Full(Mutex<Vec<Weak<Slot>>>);

static FULL: Full = Full(Mutex::new(Vec::new()));

impl Full {
    /// What `kept` holds. If it holds nothing, and no more slots may be full, what the slot filled
    /// first holds: there is memory in it.
    fn take(&self, kept: &Kept) -> Option<Box<Integers>> {
        let mut full = self.0.lock().ok()?;
        full.retain(|slot| slot.strong_count() > 0);
        let own = full.iter().position(|slot| kept.is(slot));
        let any = own.or_else(|| (full.len() == MOST_KEPT).then_some(0))?;
        empty(&full.remove(any))
    }

    /// Fills the slot of `kept`, and empties that filled first if these were too many.
    fn put(&self, kept: &Kept, integers: Box<Integers>) {
        let Ok(mut full) = self.0.lock() else { return };
        full.retain(|slot| slot.strong_count() > 0 && !kept.is(slot));
        if full.len() == MOST_KEPT {
            drop(empty(&full.remove(0)));
        }
        if let Ok(mut slot) = kept.0.lock() {
            *slot = Some(integers);
            full.push(Arc::downgrade(&kept.0));
        }
    }
}

impl Kept {
    fn is(&self, slot: &Weak<Slot>) -> bool {
        slot.as_ptr() == Arc::as_ptr(&self.0)
    }
}

/// What the slot held.
fn empty(slot: &Weak<Slot>) -> Option<Box<Integers>> {
    let slot = slot.upgrade()?;
    let mut held = slot.lock().ok()?;
    held.take()
}

/// How much more integers may miss of atoms than new ones would, in the mean, before they are made
/// anew.
const WORN: f32 = 2.5;

/// The integers of a pursuit that is under way.
pub(super) struct InUse {
    integers: Box<Integers>,
    /// What they are multiplied with.
    has: Avx512,
    /// Where they belong afterwards.
    kept: Kept,
}

impl InUse {
    /// Those of an earlier pursuit, if they will do, or new ones; None if there are atoms beyond
    /// any bound.
    pub fn of(has: Avx512, atoms: &[f32], d: usize, kept: &Kept) -> Option<Self> {
        Some(Self {
            integers: Integers::of(atoms, d, FULL.take(kept))?,
            has,
            kept: kept.clone(),
        })
    }
}

impl Integers {
    /// See [`InUse::of`]; `kept` are of an earlier pursuit, of whatever atoms.
    fn of(atoms: &[f32], d: usize, kept: Option<Box<Self>>) -> Option<Box<Self>> {
        let Some(mut kept) = kept else {
            return Self::new(atoms, d, Vec::new()).map(Box::new);
        };
        if kept.serve(atoms, d) {
            return Some(kept);
        }
        // Pages that are new to the process cost more to clear than to fill.
        let room = kept.gram.take().unwrap_or_default().numbers;
        drop(kept);
        Self::new(atoms, d, room).map(Box::new)
    }

    /// Whether these integers will do for `atoms`; their bounds are those of `atoms` then.
    fn serve(&mut self, atoms: &[f32], d: usize) -> bool {
        let (latents, width) = (atoms.len() / d, self.width());
        if self.d != d || self.bounds.len() != latents {
            return false;
        }
        let errors: Vec<f32> = atoms
            .par_chunks_exact(d)
            .zip(self.rows.par_chunks_exact(width))
            .zip(&self.scales)
            .map(|((atom, row), scale)| square_missing(atom, row, *scale).sqrt() * SUMS)
            .collect();
        let mean = errors.iter().sum::<f32>() / latents as f32;
        let largest = errors.iter().copied().fold(0.0, f32::max);
        // An atom that has become another would make all others uncertain.
        let [missed, most_missed] = self.missed;
        let known = errors.iter().all(|error| error.is_finite())
            && mean <= WORN * missed
            && largest <= 2.0 * WORN * most_missed;
        if known {
            // Below that squares may have vanished.
            self.bounds
                .set_errors(errors.into_iter().map(|error| error.max(1e-9)).collect());
        }
        known
    }

    /// `room` becomes the memory of the Gram matrix.
    fn new(atoms: &[f32], d: usize, room: Vec<i16>) -> Option<Self> {
        let latents = atoms.len() / d;
        let padded = latents.next_multiple_of(SET);
        let steps = d.div_ceil(DEPTH);
        let width = steps * DEPTH;
        let mut all = Self {
            rows: vec![128; padded * width],
            panels: vec![0; padded * width],
            scales: vec![0.0; padded],
            offsets: vec![0; padded],
            bounds: Bounds::default(),
            missed: [0.0; 2],
            gram: OnceLock::new(),
            room: Mutex::new(room),
            steps,
            d,
        };
        let sets = all
            .rows
            .par_chunks_mut(SET * width)
            .zip(all.panels.par_chunks_mut(SET * width))
            .zip(
                all.scales
                    .par_chunks_mut(SET)
                    .zip(all.offsets.par_chunks_mut(SET)),
            )
            .zip(atoms.par_chunks(SET * d))
            .map(|(((rows, panels), (scales, offsets)), atoms)| {
                let mut integers = vec![0i8; width];
                let each = rows.chunks_exact_mut(width).zip(scales).zip(offsets);
                let each = each.zip(atoms.chunks_exact(d)).enumerate();
                each.map(|(at, (((row, scale), offset), atom))| {
                    let known = quantize(atom, |factor| round(atom, factor, row))?;
                    signed(row, &mut integers);
                    store_panel(&integers, at, panels);
                    *offset = 128 * integers.iter().map(|q| i32::from(*q)).sum::<i32>();
                    *scale = known.scale;
                    Some(known.norms)
                })
                .collect::<Option<Vec<Norms>>>()
            });
        for norms in sets.collect::<Vec<_>>() {
            norms?.into_iter().for_each(|norms| all.bounds.push(norms));
        }
        all.missed = [all.bounds.mean_error(), all.bounds.most.error];
        Some(all)
    }

    fn new_gram(&self, _has: Avx512) -> Gram {
        let padded = self.scales.len();
        let unit = self.bounds.most.approximate.powi(2).max(f32::MIN_POSITIVE) / MOST;
        let mut numbers =
            std::mem::take(&mut *self.room.lock().expect("never held while panicking"));
        match numbers.capacity() >= padded * padded {
            true => numbers.resize(padded * padded, 0),
            false => numbers = vec![0; padded * padded],
        }
        let places = Places(numbers.as_mut_ptr());
        let sets = padded / SET;
        (0..sets).into_par_iter().for_each(|first| {
            let places = &places;
            let (mut part, mut turned) = ([[0i16; SET]; SET], [[0i16; SET]; SET]);
            for second in first..sets {
                // SAFETY: the processor has these instructions, as `_has` proves.
                unsafe { self.part([first, second], 1.0 / unit, &mut part) };
                turn(&part, &mut turned);
                // SAFETY: the numbers are `[padded, padded]`, and both sets lie within; a pair of
                // sets, and so both places of it, belongs to one task only. The processor has the
                // instructions.
                unsafe {
                    places.write(&part, [first, second], padded);
                    if first != second {
                        places.write(&turned, [second, first], padded);
                    }
                }
            }
            // SAFETY: every x86-64 has it. What went past the caches is there before this task has
            // ended.
            unsafe { _mm_sfence() };
        });
        Gram {
            numbers,
            padded,
            unit,
            error: 0.51 * unit,
        }
    }

    fn width(&self) -> usize {
        self.steps * DEPTH
    }

    fn row(&self, atom: u32) -> &[u8] {
        &self.rows[atom as usize * self.width()..][..self.width()]
    }

    /// Sums of products of [`ROWS`] rows with the [`BLOCK`] atoms from `first` on, which are a
    /// multiple of it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn sums(&self, rows: &[u8], first: usize) -> [[__m512i; PANELS]; ROWS] {
        let start = std::array::from_fn(|p| {
            let offset: &[i32; LANES] = vector(&self.offsets, first, p);
            // SAFETY: LANES integers lie there.
            let offset = unsafe { _mm512_loadu_si512(offset.as_ptr().cast()) };
            _mm512_sub_epi32(_mm512_setzero_si512(), offset)
        });
        let panels = &self.panels[first * self.width()..][..BLOCK * self.width()];
        sums_of(rows, panels, self.steps, start)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn scales(&self, first: usize) -> [__m512; PANELS] {
        std::array::from_fn(|p| {
            let scales: &[f32; LANES] = vector(&self.scales, first, p);
            // SAFETY: LANES floats lie there.
            unsafe { _mm512_loadu_ps(scales.as_ptr()) }
        })
    }

    /// `rows` `[n, steps, DEPTH]`, n a multiple of [`ROWS`], scores `[at most n, padded]`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn all_scores(&self, rows: &[u8], row_scales: &[f32], scores: &mut [f32]) {
        let (width, padded) = (self.width(), self.scales.len());
        for first in (0..padded).step_by(BLOCK) {
            let scales = self.scales(first);
            let eights = rows
                .chunks_exact(ROWS * width)
                .zip(row_scales.chunks_exact(ROWS));
            for ((rows, row_scales), scores) in eights.zip(scores.chunks_mut(ROWS * padded)) {
                let sums = self.sums(rows, first);
                let each = sums
                    .iter()
                    .zip(row_scales)
                    .zip(scores.chunks_exact_mut(padded));
                for ((sums, row_scale), scores) in each {
                    let (out, _) = scores[first..first + BLOCK].as_chunks_mut::<LANES>();
                    for ((sum, scale), out) in sums.iter().zip(scales).zip(out) {
                        let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*row_scale));
                        let score = _mm512_mul_ps(_mm512_cvtepi32_ps(*sum), scale);
                        // SAFETY: LANES floats fit there.
                        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), score) };
                    }
                }
            }
        }
    }

    /// Correlations of the set of atoms `first` with the set `second`, in units of `1 / per_unit`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn part(&self, [first, second]: [usize; 2], per_unit: f32, part: &mut Part) {
        let width = self.width();
        for block in (0..SET).step_by(BLOCK) {
            let scales = self.scales(second * SET + block);
            for eight in (0..SET).step_by(ROWS) {
                let row = first * SET + eight;
                let sums = self.sums(
                    &self.rows[row * width..][..ROWS * width],
                    second * SET + block,
                );
                for (at, sums) in sums.iter().enumerate() {
                    let row_scale = _mm512_set1_ps(self.scales[row + at] * per_unit);
                    let (out, _) = part[eight + at][block..block + BLOCK].as_chunks_mut::<LANES>();
                    for ((sum, scale), out) in sums.iter().zip(scales).zip(out) {
                        let number = _mm512_mul_ps(
                            _mm512_cvtepi32_ps(*sum),
                            _mm512_mul_ps(scale, row_scale),
                        );
                        let number = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(number));
                        // SAFETY: LANES numbers of 16 bits fit there.
                        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), number) };
                    }
                }
            }
        }
    }
}

/// A part of the Gram matrix.
type Part = [[i16; SET]; SET];

widest_vectors! {
    /// Without the 128 that was added.
    fn signed(row: &[u8], integers: &mut [i8]) {
        for (integer, q) in integers.iter_mut().zip(row) {
            *integer = q.wrapping_sub(128) as i8;
        }
    }
}

widest_vectors! {
    /// `missing = exact − scale · integers`.
    fn missing_of(exact: &[f32], integers: &[u8], scale: f32, missing: &mut [f32]) {
        for ((missing, exact), q) in missing.iter_mut().zip(exact).zip(integers) {
            *missing = exact - (f32::from(*q) - 128.0) * scale;
        }
    }
}

/// Lanes of a sum of squares.
const SQUARES: usize = 32;

widest_vectors! {
    /// `missing −= change · (exact − scale · integers)`. Returns the sum of squares of what is
    /// left.
    fn miss(missing: &mut [f32], change: f32, exact: &[f32], integers: &[u8], scale: f32) -> f32 {
        let integers = &integers[..exact.len()]; // without the padding
        let mut sums = [0.0f32; SQUARES];
        let one = |missing: &mut f32, exact: f32, q: u8| {
            *missing -= change * (exact - (f32::from(q) - 128.0) * scale);
            *missing * *missing
        };
        let (blocks, rest) = missing.as_chunks_mut::<SQUARES>();
        let (exacts, exact_rest) = exact.as_chunks::<SQUARES>();
        let (all, integer_rest) = integers.as_chunks::<SQUARES>();
        for ((missing, exact), integers) in blocks.iter_mut().zip(exacts).zip(all) {
            for lane in 0..SQUARES {
                sums[lane] += one(&mut missing[lane], exact[lane], integers[lane]);
            }
        }
        let rest = rest.iter_mut().zip(exact_rest).zip(integer_rest);
        let rest: f32 = rest.map(|((missing, exact), q)| one(missing, *exact, *q)).sum();
        sums.iter().sum::<f32>() + rest
    }
}

widest_vectors! {
    /// The sum of squares of `exact − scale · integers`.
    fn square_missing(exact: &[f32], integers: &[u8], scale: f32) -> f32 {
        let integers = &integers[..exact.len()]; // without the padding
        let mut sums = [0.0f32; SQUARES];
        let one = |exact: f32, q: u8| {
            let missing = exact - (f32::from(q) - 128.0) * scale;
            missing * missing
        };
        let (exacts, exact_rest) = exact.as_chunks::<SQUARES>();
        let (all, integer_rest) = integers.as_chunks::<SQUARES>();
        for (exact, integers) in exacts.iter().zip(all) {
            for lane in 0..SQUARES {
                sums[lane] += one(exact[lane], integers[lane]);
            }
        }
        let rest: f32 = exact_rest.iter().zip(integer_rest).map(|(exact, q)| one(*exact, *q)).sum();
        sums.iter().sum::<f32>() + rest
    }
}

impl Approximate for InUse {
    fn tile(&self) -> usize {
        64
    }

    fn padded(&self) -> usize {
        self.integers.scales.len()
    }

    fn bounds(&self) -> &Bounds {
        &self.integers.bounds
    }

    fn scores(&self, x: &[f32], scores: &mut [f32], tell: &mut dyn FnMut(usize, Option<&[f32]>)) {
        let (d, width) = (self.integers.d, self.integers.width());
        let n = x.len() / d;
        let padded = n.next_multiple_of(ROWS);
        let mut rows = vec![128u8; padded * width];
        let mut scales = vec![0.0f32; padded];
        let mut missing = vec![0.0f32; d];
        for (at, (x, row)) in x
            .chunks_exact(d)
            .zip(rows.chunks_exact_mut(width))
            .enumerate()
        {
            let known = quantize(x, |factor| round(x, factor, row));
            scales[at] = known.as_ref().map_or(0.0, |known| known.scale);
            missing_of(x, row, scales[at], &mut missing);
            tell(at, known.map(|_| &missing[..]));
        }
        // SAFETY: the processor has these instructions, as `self.has` proves.
        unsafe { self.integers.all_scores(&rows, &scales, scores) }
    }

    fn fetch(&self, atom: u32) {
        prefetch(self.integers.row(atom));
    }

    fn miss(&self, atom: u32, change: f32, exact: &[f32], missing: &mut [f32]) -> f32 {
        miss(
            missing,
            change,
            exact,
            self.integers.row(atom),
            self.integers.scales[atom as usize],
        )
    }

    fn gram(&self) -> &Gram {
        let integers = &self.integers;
        integers.gram.get_or_init(|| integers.new_gram(self.has))
    }

    fn keep(self: Box<Self>) {
        FULL.put(&self.kept, self.integers);
    }

    fn sharpen(&self, asked: &Asked<'_>, found: &mut Vec<u32>, scratch: &mut Sharp) {
        let Sharp { first, second } = scratch;
        first.resize(self.integers.width(), 0);
        second.resize(self.integers.width(), 0);
        let x = asked.residual;
        let known = quantize(x, |factor| round_twice(x, factor, first, second));
        if let Some(known) = known.filter(|known| known.scale > 0.0) {
            // SAFETY: the processor has these instructions, as `self.has` proves.
            unsafe { self.integers.reaching(asked, &known, scratch, found) };
        }
    }
}

impl Integers {
    /// See [`Approximate::sharpen`], of a residual in integers.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn reaching(&self, asked: &Asked<'_>, x: &Quantized, integers: &Sharp, found: &mut Vec<u32>) {
        let sum = |integers: &[i8]| 128 * integers.iter().map(|q| i32::from(*q)).sum::<i32>();
        // What adding 128 to atoms adds to their products.
        let offsets = [sum(&integers.first), sum(&integers.second)];
        let mut kept = 0;
        for at in 0..found.len() {
            let atom = found[at];
            let [first, second] = products(self.row(atom), [&integers.first, &integers.second]);
            let first = (first - offsets[0]) as f32;
            let second = (second - offsets[1]) as f32;
            let score = (first + second / PARTS) * (x.scale * self.scales[atom as usize]);
            let reach = Reach {
                missing: x.second_error,
                ..asked.reach
            };
            let reach = reach.of(self.bounds.of(atom));
            let size = if asked.signed { score.abs() } else { score };
            found[kept] = atom;
            kept += usize::from(size + reach >= asked.limit);
        }
        found.truncate(kept);
    }
}

/// The sums of products of a row with two others.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn products(row: &[u8], [first, second]: [&[i8]; 2]) -> [i32; 2] {
    const BYTES: usize = LANES * DEPTH;
    let mut sums = [_mm512_setzero_si512(); 2];
    let (rows, row_rest) = row.as_chunks::<BYTES>();
    let (firsts, first_rest) = first.as_chunks::<BYTES>();
    let (seconds, second_rest) = second.as_chunks::<BYTES>();
    for ((row, first), second) in rows.iter().zip(firsts).zip(seconds) {
        // SAFETY: that many bytes lie in each.
        unsafe {
            let row = _mm512_loadu_si512(row.as_ptr().cast());
            let first = _mm512_loadu_si512(first.as_ptr().cast());
            let second = _mm512_loadu_si512(second.as_ptr().cast());
            sums[0] = _mm512_dpbusd_epi32(sums[0], row, first);
            sums[1] = _mm512_dpbusd_epi32(sums[1], row, second);
        }
    }
    let rest = |others: &[i8]| -> i32 {
        let pairs = row_rest.iter().zip(others);
        pairs
            .map(|(row, other)| i32::from(*row) * i32::from(*other))
            .sum()
    };
    [
        _mm512_reduce_add_epi32(sums[0]) + rest(first_rest),
        _mm512_reduce_add_epi32(sums[1]) + rest(second_rest),
    ]
}

/// Where parts of the Gram matrix are written.
struct Places(*mut i16);

// SAFETY: it is only written to, each place by one task, as `write` demands.
unsafe impl Sync for Places {}

impl Places {
    /// # Safety
    ///
    /// There are `[padded, padded]` numbers, of which nobody else touches those of this pair of
    /// sets, and the processor has AVX-512.
    unsafe fn write(&self, part: &Part, [first, second]: [usize; 2], padded: usize) {
        for (at, row) in part.iter().enumerate() {
            // SAFETY: as the caller says.
            let to = unsafe { self.0.add((first * SET + at) * padded + second * SET) };
            if !to.addr().is_multiple_of(VECTOR) {
                // SAFETY: likewise.
                unsafe { to.copy_from_nonoverlapping(row.as_ptr(), SET) };
                continue;
            }
            // Past the caches: nobody reads it soon, and so nobody reads before it is written what
            // lay there.
            for vector in 0..SET * size_of::<i16>() / VECTOR {
                let from = row[vector * VECTOR / size_of::<i16>()..].as_ptr();
                // SAFETY: likewise, and the place is aligned.
                unsafe { stream(from, to.byte_add(vector * VECTOR)) };
            }
        }
    }
}

/// Bytes of a vector.
const VECTOR: usize = 64;
const _: () = assert!((SET * size_of::<i16>()).is_multiple_of(VECTOR));

/// # Safety
///
/// A vector lies at `from` and fits at `to`, which is aligned.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn stream(from: *const i16, to: *mut i16) {
    // SAFETY: as the caller says.
    unsafe { _mm512_stream_si512(to.cast(), _mm512_loadu_si512(from.cast())) };
}

/// Rows for columns, eight by eight.
fn turn(part: &Part, turned: &mut Part) {
    for row in (0..SET).step_by(8) {
        for column in (0..SET).step_by(8) {
            // SAFETY: every x86-64 has SSE2; eight numbers lie from `column` on in each row, and
            // fit from `row` on.
            unsafe {
                let r: [__m128i; 8] = std::array::from_fn(|i| {
                    _mm_loadu_si128(part[row + i][column..column + 8].as_ptr().cast())
                });
                let pairs: [__m128i; 8] = std::array::from_fn(|i| match i % 2 {
                    0 => _mm_unpacklo_epi16(r[i], r[i + 1]),
                    _ => _mm_unpackhi_epi16(r[i - 1], r[i]),
                });
                let fours: [__m128i; 8] = std::array::from_fn(|i| {
                    let (a, b) = (pairs[i / 4 * 4 + i % 2], pairs[i / 4 * 4 + i % 2 + 2]);
                    match i % 4 / 2 {
                        0 => _mm_unpacklo_epi32(a, b),
                        _ => _mm_unpackhi_epi32(a, b),
                    }
                });
                // fours[0]: columns 0 and 1 of rows 0 to 3, [2]: 2 and 3, [1]: 4 and 5, [3]: 6 and
                // 7; from 4 on of rows 4 to 7.
                for (at, pair) in [0, 2, 1, 3].into_iter().enumerate() {
                    let (a, b) = (fours[pair], fours[pair + 4]);
                    let to = [_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b)];
                    for (half, column_numbers) in to.into_iter().enumerate() {
                        let out = &mut turned[column + 2 * at + half][row..row + 8];
                        _mm_storeu_si128(out.as_mut_ptr().cast(), column_numbers);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_where_they_belong_past_the_caches_or_not() {
        let crate::host::Level::Avx512(_) = crate::host::Level::detected() else {
            return;
        };
        let padded = 2 * SET;
        let mut part = [[0i16; SET]; SET];
        for (at, number) in part.iter_mut().flatten().enumerate() {
            *number = (at % 30_011) as i16;
        }
        let mut turned = [[0i16; SET]; SET];
        turn(&part, &mut turned);
        let mut numbers = vec![-1i16; padded * padded + VECTOR];
        let aligned = numbers.as_ptr().align_offset(VECTOR);
        for shift in [aligned, aligned + 1] {
            numbers.fill(-1);
            let places = Places(numbers[shift..].as_mut_ptr());
            // SAFETY: there is room for all, which nobody else holds, and the processor has the
            // instructions.
            unsafe {
                places.write(&part, [0, 1], padded);
                places.write(&turned, [1, 0], padded);
                _mm_sfence();
            }
            for row in 0..padded {
                for column in 0..padded {
                    let expected = match (row / SET, column / SET) {
                        (0, 1) => part[row][column - SET],
                        (1, 0) => part[column][row - SET],
                        _ => -1,
                    };
                    assert_eq!(numbers[shift + row * padded + column], expected);
                }
            }
        }
    }

    /// |v|
    fn norm(v: impl Iterator<Item = f64>) -> f64 {
        v.map(|v| v * v).sum::<f64>().sqrt()
    }

    #[test]
    fn integers_that_serve_again_know_what_they_miss() {
        const D: usize = 48;
        let wave = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 300.0;
        let atoms: Vec<f32> = (0..200 * D).map(wave).collect();
        let mut integers = Integers::new(&atoms, D, vec![]).unwrap();
        let new = integers.bounds.mean_error();
        let moved = |size: f32| -> Vec<f32> {
            let by = |at: usize| if at.is_multiple_of(3) { size } else { -size };
            (0..).map(by).zip(&atoms).map(|(by, a)| a + by).collect()
        };
        for (size, serves) in [(2e-4, true), (3e-2, false), (0.0, true)] {
            let atoms = moved(size);
            assert_eq!(integers.serve(&atoms, D), serves, "moved by {size}");
            if !serves {
                continue;
            }
            for (latent, atom) in (0u32..).zip(atoms.chunks_exact(D)) {
                let (row, scale) = (integers.row(latent), integers.scales[latent as usize]);
                let approximate = row
                    .iter()
                    .map(|q| (f64::from(*q) - 128.0) * f64::from(scale));
                let missing = atom.iter().zip(approximate).map(|(a, q)| f64::from(*a) - q);
                let (missing, known) = (norm(missing), f64::from(integers.bounds.of(latent).error));
                assert!(
                    missing <= known && known <= 1.01 * missing,
                    "{missing} {known}"
                );
            }
        }
        assert!((integers.bounds.mean_error() / new - 1.0).abs() < 0.01);
        assert!(!integers.serve(&atoms[D..], D));
        assert!(!integers.serve(&vec![0.0; atoms.len()], D));
    }

    /// `latents` atoms of width `d`.
    fn some_atoms(latents: usize, d: usize, seed: usize) -> Vec<f32> {
        let number = |at: usize| (((at + seed) * 7919 % 211) as f32 - 105.0) / 500.0;
        (0..latents * d).map(number).collect()
    }

    #[test]
    fn integers_of_other_atoms_are_made_anew() {
        let sizes = [(200, 48), (200, 48), (100, 96), (300, 48), (96, 48)];
        let mut kept = None;
        for (seed, (latents, d)) in sizes.into_iter().enumerate() {
            let atoms = some_atoms(latents, d, 31 * seed);
            let new = Integers::new(&atoms, d, vec![]).unwrap();
            let found = Integers::of(&atoms, d, kept).unwrap();
            assert!(found.rows == new.rows && found.panels == new.panels);
            assert!(found.scales == new.scales && found.offsets == new.offsets);
            assert_eq!((found.d, found.steps), (d, new.steps));
            assert_eq!(found.bounds.mean_error(), new.bounds.mean_error());
            kept = Some(found);
        }
    }

    #[test]
    fn the_last_two_dictionaries_keep_their_integers_while_they_live() {
        let full = Full(Mutex::new(vec![]));
        let integers = |latents| {
            let integers = Integers::new(&some_atoms(latents, 16, 0), 16, vec![]);
            Box::new(integers.unwrap())
        };
        let held = |kept: &Kept| {
            let slot = kept.0.lock().unwrap();
            slot.as_ref().map(|integers| integers.bounds.len())
        };
        let [a, b, c] = [(); 3].map(|()| Kept::default());
        assert!(full.take(&a).is_none());
        full.put(&a, integers(10));
        full.put(&b, integers(20));
        assert_eq!((held(&a), held(&b)), (Some(10), Some(20)));
        // A clone shares them; while they are in use the slot is empty.
        let again = full.take(&a.clone()).unwrap();
        assert_eq!((again.bounds.len(), held(&a)), (10, None));
        full.put(&a, again);
        // The third gets what was filled first.
        let room = full.take(&c).unwrap();
        assert_eq!((room.bounds.len(), held(&b)), (20, None));
        full.put(&c, integers(30));
        full.put(&b, integers(20));
        assert_eq!([&a, &b, &c].map(held), [None, Some(20), Some(30)]);
        // Whoever is gone leaves room.
        drop(c);
        full.put(&a, integers(10));
        assert_eq!([&a, &b].map(held), [Some(10), Some(20)]);
    }
}
