//! What fires, against closed forms, figures by hand and SynthSAEBench's documented numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Generator, Row, gaussian};
use crate::synthetic::{Kind, Sample, Synthetic, SyntheticConfig};

const ROWS: usize = 200_000;

fn config(text: &str) -> SyntheticConfig {
    let text = format!("synthetic = {{ kind = 'synth_sae_bench', {text} }}");
    let config = SyntheticConfig::parse("test", &text, &[]).unwrap();
    config.check().unwrap();
    config
}

/// The generator of a recipe, and what fires in so many rows.
fn fired(text: &str, rows: usize) -> (Generator, Vec<Vec<(u32, f32)>>) {
    let config = config(text);
    let Kind::SynthSaeBench(benchmark) = &config.kind else {
        unreachable!()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    let generator = Generator::new(config.n_features, benchmark, &mut rng);
    let mut row = Row::default();
    let mut draw = || {
        generator.draw(&mut row, &mut rng);
        row.fired.clone()
    };
    let rows = (0..rows).map(|_| draw()).collect();
    (generator, rows)
}

fn counts(rows: &[Vec<(u32, f32)>], n: usize) -> Vec<f64> {
    let mut counts = vec![0.0; n];
    for (i, _) in rows.iter().flatten() {
        counts[*i as usize] += 1.0;
    }
    counts
}

/// How many standard errors a count of `rows` is from its expectation.
fn errors(count: f64, rows: usize, p: f64) -> f64 {
    (count - rows as f64 * p) / (rows as f64 * p * (1.0 - p)).sqrt().max(1e-9)
}

const FLAT: &str = "roots = 0, magnitude_std_mean = 0, magnitude_std_spread = 0";

#[test]
fn without_trees_features_fire_as_often_as_zipfs_law_says() {
    let text = format!("preset = '1k', n_features = 300, {FLAT}, p_max = 0.4, p_min = 5e-4");
    let (generator, rows) = fired(&text, ROWS);
    for (i, count) in counts(&rows, 300).into_iter().enumerate() {
        let last = 300f64.powf(-0.5);
        let p = 5e-4 + 0.3995 * (((i + 1) as f64).powf(-0.5) - last) / (1.0 - last);
        assert!(errors(count, ROWS, p).abs() < 4.0, "{i}: {count} {p}");
        // 5 at the first feature, 4 at the last.
        assert!((f64::from(generator.means[i]) - 5.0 + i as f64 / 299.0).abs() < 1e-6);
    }
    let off = |(i, size): &(u32, f32)| *size != generator.means[*i as usize];
    assert!(!rows.iter().flatten().any(off));
    assert!(rows.iter().all(|r| r.is_sorted_by(|a, b| a.0 < b.0)));
}

/// P(g > s, h > t) of two normal numbers with correlation `rho`, by Simpson's rule.
fn orthant(s: f64, t: f64, rho: f64) -> f64 {
    let (steps, end) = (4000, 9.0);
    let h = (end - s) / f64::from(steps);
    let at = |k: i32| {
        let x = s + h * f64::from(k);
        let density = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        density * gaussian::below((rho * x - t) / (1.0 - rho * rho).sqrt())
    };
    let weight = |k: i32| match k {
        0 => 1.0,
        k if k == steps => 1.0,
        k if k % 2 == 1 => 4.0,
        _ => 2.0,
    };
    (0..=steps).map(|k| weight(k) * at(k)).sum::<f64>() * h / 3.0
}

#[test]
fn two_features_fire_together_as_the_copula_says() {
    // Rows of F have a mean square of 0.96 before some are capped at 0.99.
    let text = format!(
        "{FLAT}, n_features = 10, p_max = 0.3, p_min = 0.02, rank = 6, correlation_scale = 0.4"
    );
    let (generator, rows) = fired(&text, ROWS);
    let factors: Vec<Vec<f64>> = (0..10)
        .map(|i| generator.copula.factor(&(0..10), i))
        .collect();
    let Kind::SynthSaeBench(benchmark) = config(&text).kind else {
        unreachable!()
    };
    let p = benchmark.zipf(10);
    let mut strongest = 0.0f64;
    for i in 0..10 {
        for j in 0..i {
            let rho: f64 = factors[i].iter().zip(&factors[j]).map(|(a, b)| a * b).sum();
            strongest = strongest.max(rho.abs());
            let [s, t] = [i, j].map(|i| gaussian::threshold(p[i]));
            let has = |row: &[(u32, f32)], i| row.iter().any(|f| f.0 == i as u32);
            let both = rows.iter().filter(|r| has(r, i) && has(r, j)).count();
            let off = errors(both as f64, ROWS, orthant(s, t, rho));
            assert!(off.abs() < 4.0, "{i} {j}: {both} {off}");
        }
    }
    assert!(strongest > 0.4, "{strongest}");
    let square = |f: &Vec<f64>| f.iter().map(|v| v * v).sum::<f64>();
    let largest = factors.iter().map(square).fold(0.0, f64::max);
    assert!((largest - 0.99).abs() < 1e-5, "{largest}");
}

const TREES: &str = "n_features = 120, roots = 6, branching = 3, depth = 2, p_max = 0.5, p_min = 0.05, rank = 3, correlation_scale = 0.3";

#[test]
fn no_child_fires_without_its_parent_and_siblings_exclude_one_another() {
    let (generator, rows) = fired(TREES, 20_000);
    let families = generator.families();
    // 6 roots, 18 children, 54 grandchildren.
    assert_eq!(families.len(), 72);
    assert_eq!(families[0], (0, 6));
    assert_eq!(families[17], (5, 23));
    assert_eq!(families[18], (6, 24));
    assert_eq!(families[71], (23, 77));
    let mut children = 0;
    for row in &rows {
        let fires: Vec<u32> = row.iter().map(|f| f.0).collect();
        let mut of = vec![0; 24];
        for (parent, child) in &families {
            if fires.contains(&(*child as u32)) {
                assert!(
                    fires.contains(&(*parent as u32)),
                    "{child} without {parent}"
                );
                of[*parent] += 1;
                children += 1;
            }
        }
        assert!(of.iter().all(|n| *n <= 1), "{of:?}");
    }
    assert!(children > 20_000, "{children}");

    let (_, rows) = fired(&format!("{TREES}, exclusive = 0"), 20_000);
    let of_first = |r: &&Vec<(u32, f32)>| r.iter().filter(|f| (6..9).contains(&f.0)).count() > 1;
    assert!(rows.iter().filter(of_first).count() > 1000);
    // A third of 24 parents.
    let (generator, _) = fired(&format!("{TREES}, exclusive = 0.34"), 1);
    let exclusive = (0..120).filter(|p| generator.forest.exclusive(*p)).count();
    assert_eq!(exclusive, 8);
}

#[test]
fn trees_stop_where_features_run_out() {
    let (generator, rows) = fired("n_features = 10, roots = 3, branching = 4, depth = 3", 100);
    let families = generator.families();
    assert_eq!(families.len(), 7);
    assert_eq!(families[6], (1, 9));
    assert!(rows.iter().flatten().all(|f| f.0 < 10));
    let (generator, _) = fired("n_features = 10, roots = 10", 1);
    assert_eq!(generator.families(), []);
    assert_eq!(generator.forest.blocks().len(), 1);
}

#[test]
fn active_exclusive_siblings_win_equally_often() {
    // All are always drawn: p = 1.
    let text = "n_features = 5, roots = 1, branching = 4, depth = 1, p_max = 1, p_min = 1, magnitude_std_mean = 0, magnitude_std_spread = 0";
    let (_, rows) = fired(text, ROWS);
    let counts = counts(&rows, 5);
    assert_eq!(counts[0], ROWS as f64);
    for count in &counts[1..] {
        assert!(errors(*count, ROWS, 0.25).abs() < 4.0, "{count}");
    }
}

#[test]
fn the_magnitude_of_a_child_follows_its_parent() {
    let text = "n_features = 21, roots = 1, branching = 4, depth = 2, p_max = 0.9, p_min = 0.4, magnitude_std_spread = 0";
    let still = "magnitude_std_mean = 0";
    // With the same numbers, once without and once with the parent's share.
    let (generator, plain) = fired(&format!("{text}, scale_children = false"), 1000);
    let (_, scaled) = fired(text, 1000);
    let mut grandchildren = 0;
    for (plain, scaled) in plain.iter().zip(&scaled) {
        let mut share = [1.0f32; 21];
        for ((i, was), (same, is)) in plain.iter().zip(scaled) {
            assert_eq!(i, same);
            let i = *i as usize;
            assert!((was * share[i] / is - 1.0).abs() < 1e-5, "{i}: {was} {is}");
            let children = generator.forest.children(i);
            share[children].fill(is / generator.means[i]);
            grandchildren += usize::from(i > 4);
        }
    }
    assert!(grandchildren > 200, "{grandchildren}");
    let (generator, rows) = fired(&format!("{text}, {still}"), 1000);
    let off = |(i, size): &(u32, f32)| *size != generator.means[*i as usize];
    assert!(!rows.iter().flatten().any(off));
}

#[test]
fn compensation_is_as_by_hand() {
    let text = "n_features = 4, roots = 1, branching = 2, depth = 2, p_max = 0.8, p_min = 0.1, zipf_exponent = 1, rank = 0";
    let Kind::SynthSaeBench(benchmark) = config(text).kind else {
        unreachable!()
    };
    let (generator, _) = fired(text, 1);
    let base = benchmark.zipf(4);
    // 1, 1/2, 1/3, 1/4 rescaled to 0.8 .. 0.1.
    for (found, p) in base
        .iter()
        .zip([0.8, 0.1 + 0.7 / 3.0, 0.1 + 0.7 / 9.0, 0.1])
    {
        assert!((found - p).abs() < 1e-12);
    }
    let (a, b, c, d) = (base[0], base[1], base[2], base[3]);
    // The last feature is an only child.
    let by_hand = [a, b / a * (1.0 + c / a), c / a * (1.0 + b / a), d / b];
    let found = generator.forest.compensated(&base);
    for (found, p) in found.iter().zip(by_hand) {
        assert!((found - p).abs() < 1e-12);
    }
    // A rival takes half of the rows in which both are drawn.
    let [q, r] = [by_hand[1], by_hand[2]];
    let rates = generator.forest.rates(&found);
    assert!((rates[1] - a * q * (1.0 - r / 2.0)).abs() < 1e-12);
    assert!((rates[3] - rates[1] * by_hand[3]).abs() < 1e-12);
    let clamped = generator.forest.compensated(&[0.2, 0.2, 0.2, 0.2]);
    assert_eq!(clamped, [0.2, 1.0, 1.0, 1.0]);
}

#[test]
fn in_trees_features_fire_as_often_as_the_closed_form_says() {
    let text = format!("{TREES}, correlation_scale = 0, magnitude_std_mean = 4");
    let text = text.replacen("correlation_scale = 0.3, ", "", 1);
    let (generator, rows) = fired(&text, ROWS);
    let expected = generator.densities(&mut ChaCha8Rng::seed_from_u64(0));
    for (i, (count, p)) in counts(&rows, 120).into_iter().zip(expected).enumerate() {
        assert!(errors(count, ROWS, p).abs() < 4.0, "{i}: {count} {p}");
    }
}

/// Documented of SynthSAEBench-16k: about 34 features per row, 25 of the first 4096.
#[test]
fn the_large_preset_has_the_documented_number_of_active_features() {
    let rows = 4000;
    let (generator, fired) = fired("preset = '16k'", rows);
    // 128 (1 + 4 + 16 + 64) features in trees.
    assert_eq!(generator.families().len(), 10_880 - 128);
    let l0 = |below: u32| {
        let sizes = fired
            .iter()
            .map(|r| r.iter().filter(|f| f.0 < below).count());
        sizes.sum::<usize>() as f64 / rows as f64
    };
    let (all, first) = (l0(u32::MAX), l0(4096));
    assert!((all - 34.0).abs() < 1.0, "{all}");
    assert!((first - 25.0).abs() < 1.0, "{first}");
    let expected: f64 = generator
        .densities(&mut ChaCha8Rng::seed_from_u64(0))
        .iter()
        .sum();
    assert!((all - expected).abs() < 1.0, "{all} {expected}");
}

/// Activations per dimension are those of the large preset.
#[test]
fn smaller_presets_are_as_crowded_as_the_large_one() {
    for (preset, d) in [("4k", 256.0), ("1k", 96.0)] {
        let (generator, rows) = fired(&format!("preset = '{preset}'"), 10_000);
        let l0 = rows.iter().map(Vec::len).sum::<usize>() as f64 / 10_000.0;
        assert!(
            (l0 / d / (34.0 / 768.0) - 1.0).abs() < 0.05,
            "{preset}: {l0}"
        );
        let n = generator.means.len() as f64;
        let in_trees = generator.families().len() as f64 / n;
        assert!((in_trees - 10_752.0 / 16_384.0).abs() < 0.001);
    }
}

fn sampled(text: &str, rows: &[usize]) -> (Synthetic, Vec<Sample>) {
    let synthetic = Synthetic::new(config(text), &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let samples = rows
        .iter()
        .map(|n| synthetic.sample(*n, &mut rng))
        .collect();
    (synthetic, samples)
}

#[test]
fn an_activation_is_the_sum_of_its_features_and_the_bias() {
    let text = "preset = '1k', n_features = 200, d_in = 40, orthogonal_steps = 5, p_min = 0.02";
    let (synthetic, samples) = sampled(text, &[50]);
    let mut bias = Vec::new();
    for (x, features) in samples[0].x.chunks(40).zip(&samples[0].features) {
        let mut rest: Vec<f64> = x.iter().copied().map(f64::from).collect();
        for (i, size) in features {
            let direction = &synthetic.directions()[*i as usize];
            let norm: f64 = direction.iter().map(|v| v * v).sum();
            assert!((norm - 1.0).abs() < 1e-6);
            for (r, v) in rest.iter_mut().zip(direction) {
                *r -= f64::from(*size) * v;
            }
        }
        if bias.is_empty() {
            bias.clone_from(&rest);
        }
        let off = bias.iter().zip(&rest).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0.0, f64::max) < 1e-5);
    }
    let norm = bias.iter().map(|v| v * v).sum::<f64>().sqrt();
    assert!((norm - 0.5).abs() < 1e-5, "{norm}");
}

#[test]
fn rows_are_the_same_for_any_number_of_threads_and_any_batches() {
    let text = "preset = '1k', n_features = 300, d_in = 30, orthogonal_steps = 3, noise = 0.1";
    let pool = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap()
    };
    let (one, whole) = pool(1).install(|| sampled(text, &[3000]));
    let (many, parts) = pool(5).install(|| sampled(text, &[1033, 1967]));
    assert_eq!(one.directions(), many.directions());
    let x: Vec<f32> = parts.iter().flat_map(|s| s.x.clone()).collect();
    assert_eq!(whole[0].x, x);
    let features: Vec<_> = parts.iter().flat_map(|s| s.features.clone()).collect();
    assert_eq!(whole[0].features, features);
    let rows: Vec<&[f32]> = x.chunks(30).collect();
    assert!(rows.windows(2).all(|w| w[0] != w[1]));
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    for (text, key) in [
        ("preset = '2k'", "synthetic.preset"),
        ("p_max = 1.5", "synthetic.p_max"),
        ("p_max = 0.1, p_min = 0.2", "synthetic.p_min"),
        ("p_min = 0", "synthetic.p_min"),
        ("zipf_exponent = 0", "synthetic.zipf_exponent"),
        ("preset = '1k', roots = 1025", "synthetic.roots"),
        ("branching = 1", "synthetic.branching"),
        ("depth = 0", "synthetic.depth"),
        ("exclusive = 1.1", "synthetic.exclusive"),
        ("rank = 1e6", "synthetic.rank"),
        ("correlation_scale = -1", "synthetic.correlation_scale"),
        ("orthogonal_lr = 0", "synthetic.orthogonal_lr"),
        ("magnitude_last = 0", "synthetic.magnitude_last"),
        ("magnitude_std_mean = -1", "synthetic.magnitude_std_mean"),
        ("bias = -1", "synthetic.bias"),
        ("d_in = 0", "synthetic.d_in"),
        ("d_in = 1e9", "synthetic.n_features"),
        ("scale_children = 1", "synthetic.scale_children"),
    ] {
        let text = format!("synthetic = {{ kind = 'synth_sae_bench', {text} }}");
        let parsed = SyntheticConfig::parse("test", &text, &[]);
        let error = parsed.and_then(|c| c.check()).unwrap_err().to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}
