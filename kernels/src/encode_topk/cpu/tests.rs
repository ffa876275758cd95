//! Every way of ruling latents out gives the bits of scoring all latents exactly, on inputs made to
//! mislead it.

use super::*;
#[cfg(target_arch = "x86_64")]
use crate::integers::{EightBits, Format, SixteenBits};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

struct Case {
    x: Vec<f32>,
    w_enc: Vec<f32>,
    b_enc: Vec<f32>,
    d: usize,
    k: usize,
    state: EncoderState,
}

impl Case {
    fn draw(seed: u64, [n, d, latents, k]: [usize; 4]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Sums of uniform numbers: nearly normal.
        let mut numbers = |n: usize| -> Vec<f32> {
            (0..n)
                .map(|_| (0..6).map(|_| rng.random::<f32>() - 0.5).sum())
                .collect()
        };
        Self {
            x: numbers(n * d),
            w_enc: numbers(latents * d),
            b_enc: numbers(latents),
            d,
            k,
            state: EncoderState::default(),
        }
    }

    fn encoder(&self) -> Encoder<'_> {
        Encoder {
            w_enc: &self.w_enc,
            latents: LatentsOf {
                bias: &self.b_enc,
                threshold: None,
            },
            d: self.d,
        }
    }

    /// Exact scores of all latents, best first.
    fn all_scores(&self, x: &[f32]) -> Vec<Scored> {
        let weights = self.w_enc.chunks_exact(self.d).zip(&self.b_enc);
        let mut all: Vec<Scored> = (0..)
            .zip(weights)
            .map(|(latent, (w, bias))| Scored::new(exact::score(x, w, *bias), latent))
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all
    }

    /// The best of each row.
    fn expected(&self) -> Vec<Scored> {
        let rows = self.x.chunks_exact(self.d);
        rows.flat_map(|x| self.all_scores(x).into_iter().take(self.k))
            .collect()
    }

    /// Latents that are scored exactly a row, without a guess.
    fn scored(&self, level: Level) -> usize {
        let n = self.x.len() / self.d;
        let mut rows: Vec<Counting> = (0..n).map(|_| Counting(Best::new(self.k), 0)).collect();
        screen(level, &self.x, self.encoder(), &mut rows);
        rows.iter().map(|row| row.1).sum::<usize>() / n
    }

    /// With one thread, which takes all rows in one task, and with three.
    fn holds(&self, what: &str) {
        let expected = self.expected();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                for level in Level::available() {
                    let found = topk_at(level, &self.x, self.encoder(), self.k, &self.state);
                    let wrong = (0..expected.len()).find(|&at| found[at] != expected[at]);
                    assert_eq!(wrong, None, "{what}, {level:?}, {threads} threads");
                }
                self.holds_above(what);
            });
        }
    }

    /// The same for thresholds, which are some latents' own scores in some row: equal is not above.
    fn holds_above(&self, what: &str) {
        let n = self.x.len() / self.d;
        let latents = self.b_enc.len();
        let scores: Vec<Vec<Scored>> = self
            .x
            .chunks_exact(self.d)
            .map(|x| self.all_scores(x))
            .collect();
        let mut of_latents = vec![Vec::new(); latents];
        for scored in scores.iter().flatten() {
            of_latents[scored.latent() as usize].push(scored.value());
        }
        let mut threshold: Vec<f32> = of_latents
            .into_iter()
            .map(|mut of_rows| {
                of_rows.sort_unstable_by(f32::total_cmp);
                of_rows[(n - 1) - n / 50].max(0.0)
            })
            .collect();
        threshold[latents / 2] = f32::INFINITY;
        threshold[latents / 3] = f32::NAN;
        threshold[latents / 4] = 1e20;
        let expected: Vec<Vec<Scored>> = scores
            .into_iter()
            .map(|mut row| {
                row.retain(|s| s.value() > threshold[s.latent() as usize]);
                row
            })
            .collect();
        for level in Level::available() {
            let (w, b) = (&self.w_enc, &self.b_enc);
            let found = above::above_at(level, &self.x, w, b, &threshold, self.d);
            let wrong = (0..n).find(|&row| found[row] != expected[row]);
            assert_eq!(wrong, None, "{what}, {level:?}: first row that differs");
        }
    }
}

/// A row that counts what it is given.
struct Counting(Best, usize);

impl Row for Counting {
    fn floor(&self) -> f32 {
        self.0.floor()
    }
    fn take(&mut self, score: f32, latent: u32) {
        self.0.take(score, latent);
        self.1 += 1;
    }
    fn give_up(&mut self) {
        self.0.give_up();
    }
    fn afresh(&self) -> Self {
        Self(self.0.afresh(), 0)
    }
    fn take_over(&mut self, other: Self) {
        self.0.take_over(other.0);
        self.1 += other.1;
    }
}

/// n, d, F, k: off every tile; few rows and many; k of 1 and of F.
const SHAPES: [[usize; 4]; 8] = [
    [64, 16, 48, 1],
    [65, 17, 49, 49],
    [130, 33, 1000, 7],
    [600, 64, 2500, 32],
    [71, 768, 1537, 32],
    [3, 40, 5000, 16],
    [200, 20, 3000, 400],
    [1, 1, 1, 1],
];

#[test]
fn random_numbers_of_any_shape() {
    for (seed, shape) in (0..).zip(SHAPES) {
        Case::draw(seed, shape).holds(&format!("{shape:?}"));
    }
}

#[test]
fn latents_that_differ_by_less_than_any_bound() {
    for seed in 0..4 {
        let mut case = Case::draw(seed, [80, 48, 1200, 20]);
        let d = case.d;
        let first = case.w_enc[..d].to_vec();
        for (latent, w) in case.w_enc.chunks_exact_mut(d).enumerate() {
            w.copy_from_slice(&first);
            // Runs of exact ties, each run a last bit away from the one before.
            let change = (latent / 3 % 7) as u32;
            w[latent % d] = f32::from_bits(w[latent % d].to_bits() + change);
        }
        case.b_enc.fill(0.25);
        case.holds("near ties");
    }
}

#[test]
fn norms_from_the_smallest_to_the_largest() {
    let mut case = Case::draw(9, [96, 32, 900, 16]);
    let d = case.d;
    for (latent, w) in case.w_enc.chunks_exact_mut(d).enumerate() {
        let size = 10f32.powi(latent as i32 % 76 - 38); // 1e-38 to 1e37
        w.iter_mut().for_each(|w| *w *= size);
    }
    case.holds("weights of all sizes");
    for (row, x) in case.x.chunks_exact_mut(d).enumerate() {
        let size = 10f32.powi(row as i32 % 80 - 44); // denormal to 1e35
        x.iter_mut().for_each(|x| *x *= size);
    }
    case.holds("weights and inputs of all sizes");
    case.b_enc.fill(0.0);
    case.w_enc
        .iter_mut()
        .for_each(|w| *w = w.clamp(-1e-20, 1e-20));
    case.x.iter_mut().for_each(|x| *x = x.clamp(-1e-22, 1e-22));
    case.holds("denormal products");
}

/// Where the product of two scales is subnormal, and a sum of products of 16-bit integers is large.
#[test]
fn scales_whose_product_is_subnormal() {
    let (n, d, latents) = (64, 16, 192);
    let mut case = Case::draw(23, [n, d, latents, 1]);
    case.b_enc.fill(0.0);
    case.x.fill(3e-19);
    for (latent, w) in case.w_enc.chunks_exact_mut(d).enumerate() {
        w.fill(match latent {
            0..96 => 1e-19,
            100 => 3e-19,
            _ => 0.0,
        });
    }
    case.holds("subnormal products of scales");
    // And norms that are subnormal themselves, of inputs against large weights.
    let two = |v: &mut [f32], size: f32| {
        v.fill(0.0);
        v[..2].fill(size);
    };
    case.x
        .chunks_exact_mut(d)
        .for_each(|x| two(x, f32::from_bits(1)));
    for (latent, w) in case.w_enc.chunks_exact_mut(d).enumerate() {
        let size = match latent {
            0..96 => 0.9e15,
            100 => 1e15,
            _ => 0.0,
        };
        two(w, size);
    }
    case.holds("subnormal norms");
}

#[test]
fn one_number_that_dwarfs_its_row() {
    let mut case = Case::draw(10, [80, 64, 2000, 24]);
    let d = case.d;
    for (latent, w) in case.w_enc.chunks_exact_mut(d).enumerate() {
        w[latent % d] *= 1e4;
    }
    for (row, x) in case.x.chunks_exact_mut(d).enumerate() {
        x[(7 * row) % d] *= 1e4;
    }
    case.holds("outliers");
}

#[test]
fn numbers_that_are_not_finite() {
    let mut case = Case::draw(11, [70, 24, 800, 12]);
    let d = case.d;
    for (at, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .enumerate()
    {
        case.w_enc[(100 + at) * d + at] = bad;
        case.b_enc[200 + at] = bad;
        case.x[(3 + at) * d + 2] = bad;
    }
    case.holds("a few");
    case.b_enc[300..320].fill(f32::INFINITY);
    case.holds("more than k infinite scores");
    case.w_enc.fill(f32::NAN);
    case.holds("nothing but NaN");
}

#[test]
fn rows_that_do_not_resemble_those_before() {
    // The first rows lie where latents are large, later ones where they are small: what the norms
    // of the first let expect of the others is far above what they have.
    let mut case = Case::draw(14, [600, 64, 2000, 16]);
    let d = case.d;
    for w in case.w_enc.chunks_exact_mut(d) {
        w[..32].iter_mut().for_each(|w| *w *= 10.0);
    }
    for (row, x) in case.x.chunks_exact_mut(d).enumerate() {
        match row % 300 {
            ..40 => x[32..].fill(0.0),
            _ => x[..32].fill(0.0),
        }
    }
    case.b_enc.fill(0.0);
    case.holds("other rows");
}

#[test]
fn a_few_dimensions_that_dominate_and_rows_of_a_hundred_times_the_norm() {
    for (seed, size) in (50..).zip([30.0, 100.0]) {
        let mut case = Case::draw(seed, [150, 96, 1300, 16]);
        for x in case.x.chunks_exact_mut(96) {
            [5, 40, 77].iter().for_each(|at| x[*at] *= size);
        }
        case.holds("dominant dimensions");
        for x in case.x.chunks_exact_mut(96).step_by(13) {
            x.iter_mut().for_each(|x| *x *= 100.0);
        }
        case.holds("rows like those of a first token");
    }
}

/// What is missing of a vector that is rounded to integers, second ones too.
#[cfg(target_arch = "x86_64")]
fn missing<F: Format>(v: &[f32]) -> Vec<f32> {
    let (mut integers, mut second) = (
        vec![F::Column::default(); v.len()],
        vec![F::Column::default(); v.len()],
    );
    let scale = F::column(v, &mut integers, &mut second).unwrap().scale;
    let number = |q: F::Column| -> i32 { q.into() };
    integers
        .into_iter()
        .zip(second)
        .zip(v)
        .map(|((q, part), v)| v - scale * (number(q) as f32 + number(part) as f32 / 254.0))
        .collect()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn weights_along_what_rounding_takes_from_the_input() {
    // Weights along what roundings leave of the input, which are alike, so that integers hold them
    // nearly exactly: approximations miss all of it. The bias makes the latent's score the best by
    // a hair; an earlier set of latents has the second best. Then the same the other way round.
    for seed in 0..8 {
        let [n, d, latents] = [64, 32, 400];
        let drawn = Case::draw(20 + seed, [1, d, 1, 1]);
        let first = drawn.x[..d].to_vec();
        for missing in [missing::<EightBits>(&first), missing::<SixteenBits>(&first)] {
            let along: Vec<f32> = missing.iter().map(|m| 127.0f32.copysign(*m)).collect();
            let evenly = |at: usize| [127.0, -127.0][at % 2];
            for turned in [false, true] {
                let mut case = Case::draw(20 + seed, [n, d, latents, 1]);
                let [second, best] = [5, 300];
                case.w_enc.fill(0.0);
                case.b_enc.fill(-1e9);
                let x = if turned { along.clone() } else { first.clone() };
                case.x = x.repeat(n);
                let row = case.w_enc[best * d..][..d].iter_mut();
                let w = if turned { &first } else { &along };
                row.zip(w).for_each(|(row, w)| *row = *w);
                for at in 0..d {
                    case.w_enc[second * d + at] = evenly(at);
                }
                let dot = |latent: usize| exact::score(&x, &case.w_enc[latent * d..][..d], 0.0);
                case.b_enc[second] = 0.0;
                case.b_enc[best] = dot(second) - dot(best);
                while dot(best) + case.b_enc[best] <= dot(second) {
                    case.b_enc[best] = case.b_enc[best].next_up();
                }
                assert_eq!(case.expected()[0].latent(), best as i32);
                case.holds("weights along the rest");
            }
        }
    }
}

/// A row whose floor is one latent's exact score.
struct Wanting {
    floor: f32,
    latent: u32,
    offered: bool,
}

impl Row for Wanting {
    fn floor(&self) -> f32 {
        self.floor
    }
    fn take(&mut self, score: f32, latent: u32) {
        if latent == self.latent {
            assert_eq!(score, self.floor);
            self.offered = true;
        }
    }
    fn give_up(&mut self) {
        unreachable!("all numbers are small");
    }
    fn afresh(&self) -> Self {
        Self { ..*self }
    }
    fn take_over(&mut self, other: Self) {
        self.offered |= other.offered;
    }
}

#[test]
fn no_score_is_above_its_bound() {
    for (seed, [n, d, latents, _]) in (60..).zip(SHAPES).filter(|(_, shape)| shape[0] >= 64) {
        let mut case = Case::draw(seed, [n, d, latents, 1]);
        case.x[3 % d] *= 50.0;
        case.w_enc[5 % d] *= 50.0;
        for level in Level::available() {
            for shift in [1, 311] {
                let mut rows: Vec<Wanting> = (0..n)
                    .map(|row| {
                        let latent = (row * 7919 + shift) % latents;
                        let (x, w) = (&case.x[row * d..][..d], &case.w_enc[latent * d..][..d]);
                        Wanting {
                            floor: exact::score(x, w, case.b_enc[latent]),
                            latent: latent as u32,
                            offered: false,
                        }
                    })
                    .collect();
                screen(level, &case.x, case.encoder(), &mut rows);
                let missed = rows.iter().position(|row| !row.offered);
                assert_eq!(missed, None, "{level:?}, {n} rows, {d} wide");
            }
        }
    }
}

#[test]
fn zeros_and_ties_without_end() {
    let mut case = Case::draw(12, [66, 32, 3000, 8]);
    case.x[..10 * 32].fill(0.0);
    case.b_enc.fill(0.0);
    case.holds("rows of zeros");
    case.w_enc.fill(0.5);
    case.holds("one latent over and over");
}

#[test]
fn few_latents_are_scored_exactly() {
    // Scored in random order, 32 (1 + ln(8192 / 32)) = 209 latents beat the 32 best before them.
    // The floor lags by up to 16, half of them on the mean, and bounds of 8 bits of a weight let
    // some more through.
    let case = Case::draw(13, [256, 768, 8192, 32]);
    for level in Level::available() {
        let most = match level {
            Level::Portable => 300,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => 300,
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni(_) | Level::Avx512(_) | Level::Amx(_) => 420,
        };
        let found = case.scored(level);
        println!("{level:?}: {found} latents scored a row");
        assert!((32..=most).contains(&found), "{level:?}: {found}");
    }
}

/// A few dimensions of the inputs are 50 times as large as the others, as in activations of models.
#[test]
fn dominant_dimensions_leave_few_more_latents() {
    let plain = Case::draw(13, [256, 768, 8192, 32]);
    let mut case = Case::draw(13, [256, 768, 8192, 32]);
    let large = [5, 117, 300, 766];
    for (of_rows, factor) in [(&mut case.x, 50.0), (&mut case.w_enc, 1.0 / 50.0)] {
        for row in of_rows.chunks_exact_mut(768) {
            large.iter().for_each(|at| row[*at] *= factor);
        }
    }
    for level in Level::available() {
        let (found, without) = (case.scored(level), plain.scored(level));
        println!("{level:?}: {found} latents scored a row, {without} without dominant dimensions");
        assert!(
            found <= without + without / 10,
            "{level:?}: {found}, {without}"
        );
    }
}

#[test]
fn guesses_of_a_call_that_the_next_puts_to_shame() {
    let mut case = Case::draw(11, [300, 64, 700, 8]);
    case.holds("nothing is expected");
    // The same memory holds other weights: nearly all rows are done again, then hardly any latent
    // is ruled out by the guess.
    for (factor, what) in [
        (0.01, "too much is expected"),
        (1e4, "too little is expected"),
    ] {
        case.w_enc.iter_mut().for_each(|w| *w *= factor);
        case.holds(what);
    }
    case.w_enc.fill(f32::NAN);
    case.holds("what is expected is no number");
}

#[test]
fn one_state_for_other_weights_and_sizes_changes_no_result() {
    let shapes = [
        [300, 64, 700, 8],
        [300, 64, 700, 8],
        [300, 64, 700, 32],
        [260, 32, 1400, 8],
        [70, 64, 700, 8],
        [300, 17, 400, 400],
    ];
    let state = EncoderState::default();
    let mut cases: Vec<Case> = (30..)
        .zip(shapes)
        .map(|(seed, shape)| Case::draw(seed, shape))
        .collect();
    cases[1].w_enc.iter_mut().for_each(|w| *w *= 50.0);
    // Twice, so that each but the first finds what another left, of the same sizes too.
    for round in 0..2 {
        for (number, case) in cases.iter_mut().enumerate() {
            case.state = state.clone();
            case.holds(&format!("case {number}, round {round}"));
        }
    }
}

/// What a call leaves serves the next: guessing by other approximations, which every processor has.
#[cfg(target_arch = "x86_64")]
#[test]
fn what_a_call_left_leaves_fewer_latents_to_score() {
    use std::cell::Cell;
    let mut case = Case::draw(40, [300, 64, 2000, 8]);
    let guesses = Guesses::default();
    let run = |case: &Case, guesses: &Guesses| {
        let scored = Cell::new(0);
        let screened = |x: &[f32], rows: &mut [Best]| {
            let encoder = case.encoder();
            let mut counting: Vec<Counting> = Vec::new();
            for row in &mut *rows {
                let row = std::mem::replace(row, Best::new(case.k));
                counting.push(Counting(row, 0));
            }
            screen(Level::Portable, x, encoder, &mut counting);
            for (row, Counting(done, count)) in rows.iter_mut().zip(counting) {
                *row = done;
                scored.set(scored.get() + count);
            }
        };
        let mut best = vec![Scored::NONE; 300 * case.k];
        guessing(
            screened,
            &case.x,
            case.encoder(),
            guesses,
            &mut best,
            case.k,
        );
        assert!(best == case.expected());
        scored.get()
    };
    let first = run(&case, &guesses);
    // As training moves weights in a step.
    case.w_enc.iter_mut().for_each(|w| *w *= 1.0005);
    let second = run(&case, &guesses);
    assert!(second < first, "{first} latents scored, then {second}");
    // Other weights: far too much is expected, then far too little.
    for factor in [0.01, 1e4] {
        case.w_enc.iter_mut().for_each(|w| *w *= factor);
        run(&case, &guesses);
    }
}

/// `cargo test -p lapidary-kernels --lib -- --ignored --nocapture levels_in_turn`
#[test]
#[ignore = "a measurement: docs/performance.md says how it is run"]
fn levels_in_turn() {
    let case = Case::draw(1, [2048, 768, 24_576, 32]);
    let mut times = vec![vec![]; Level::available().len()];
    for _ in 0..7 {
        for (times, level) in times.iter_mut().zip(Level::available()) {
            let start = std::time::Instant::now();
            topk_at(level, &case.x, case.encoder(), case.k, &case.state);
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    for (times, level) in times.iter_mut().zip(Level::available()) {
        times.sort_by(f64::total_cmp);
        println!(
            "{level:?}: median {:.0} ms, best {:.0} ms",
            times[3], times[0]
        );
    }
}
