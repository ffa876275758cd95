use super::*;
use std::collections::HashSet;

const SILENT: [f32; 4] = [0.0; 4];

/// Test-half documents in ascending order.
fn test_documents() -> impl Iterator<Item = u64> {
    (0..).filter(|&document| Split::of_document(document) == Split::Test)
}

/// `firing` windows with maxima 1, 2, 3, … and `silent` windows, each of a document of its own.
struct Pool {
    tokens: [u32; 4],
    activations: Vec<[f32; 4]>,
    silent: usize,
}

impl Pool {
    fn new(firing: usize, silent: usize) -> Self {
        Pool {
            tokens: [1, 2, 3, 4],
            activations: (0..firing)
                .map(|i| [0.0, i as f32 + 1.0, 0.5, 0.0])
                .collect(),
            silent,
        }
    }

    fn windows(&self) -> Vec<Window<'_>> {
        let firing = self.activations.iter().map(|values| &values[..]);
        let silent = std::iter::repeat_n(&SILENT[..], self.silent);
        firing
            .chain(silent)
            .zip(test_documents())
            .map(|(activations, document)| Window {
                document,
                tokens: &self.tokens,
                activations,
            })
            .collect()
    }
}

fn examples<'a>(windows: &[Window<'a>], config: &ExampleConfig) -> Examples<'a> {
    match Examples::choose(7, windows, config).unwrap() {
        ExamplesOrTooFew::Examples(examples) => examples,
        ExamplesOrTooFew::TooFew(few) => panic!("{few:?}"),
    }
}

#[test]
fn every_tenth_of_the_activation_range_gives_five_windows() {
    let pool = Pool::new(203, 300);
    let chosen = examples(&pool.windows(), &ExampleConfig::default());
    assert_eq!((chosen.active.len(), chosen.silent.len()), (50, 50));
    let mut per_cut = [0; 10];
    for window in &chosen.active {
        // Rank from the strongest: maximum 203 has rank 0. Cuts start at floor(203 c / 10).
        let rank = 203 - window.max() as usize;
        let cut = (0..10).rev().find(|c| c * 203 / 10 <= rank).unwrap();
        per_cut[cut] += 1;
    }
    assert_eq!(per_cut, [5; 10]);
    assert!(
        chosen
            .active
            .windows(2)
            .all(|pair| pair[0].max() > pair[1].max())
    );
    assert!(chosen.silent.iter().all(|window| window.max() == 0.0));
    let documents: HashSet<u64> = chosen.labelled().map(|(w, _)| w.document).collect();
    assert_eq!(documents.len(), 100, "no window twice");
}

#[test]
fn all_windows_of_a_part_are_equally_likely() {
    let pool = Pool::new(40, 10);
    let windows = pool.windows();
    let mut drawn = [0u32; 40];
    for seed in 0..2000 {
        let config = ExampleConfig {
            active: 10,
            cuts: 5,
            seed,
            ..ExampleConfig::default()
        };
        for window in examples(&windows, &config).active {
            drawn[window.max() as usize - 1] += 1;
        }
    }
    // 2 of 8: expected 500 each, standard deviation 19.
    assert!(drawn.iter().all(|&n| (410..590).contains(&n)), "{drawn:?}");
}

#[test]
fn the_same_seed_draws_the_same_windows_and_another_seed_others() {
    let pool = Pool::new(100, 100);
    let windows = pool.windows();
    let config = ExampleConfig::default();
    let other = ExampleConfig {
        seed: 23,
        ..config.clone()
    };
    assert_eq!(examples(&windows, &config), examples(&windows, &config));
    assert_ne!(
        examples(&windows, &config).active,
        examples(&windows, &other).active
    );
    assert_ne!(
        examples(&windows, &config).silent,
        examples(&windows, &other).silent
    );
}

#[test]
fn a_latent_with_few_windows_is_tested_on_all_of_them() {
    let pool = Pool::new(23, 12);
    let chosen = examples(&pool.windows(), &ExampleConfig::default());
    assert_eq!((chosen.active.len(), chosen.silent.len()), (23, 12));
    assert!(
        chosen
            .active
            .windows(2)
            .all(|pair| pair[0].max() > pair[1].max())
    );
}

#[test]
fn a_latent_with_too_few_windows_is_reported_unscored() {
    for (firing, silent) in [(9, 100), (100, 9), (0, 0)] {
        let pool = Pool::new(firing, silent);
        let got = Examples::choose(7, &pool.windows(), &ExampleConfig::default()).unwrap();
        assert_eq!(
            got,
            ExamplesOrTooFew::TooFew(TooFewWindows {
                latent: 7,
                active: firing,
                silent
            })
        );
    }
}

#[test]
fn no_document_is_in_both_halves() {
    let tokens = [0u32; 4];
    let active = [0.0, 2.0, 0.0, 0.0];
    let windows: Vec<Window> = (0..2000)
        .map(|i| Window {
            document: i / 4,
            tokens: &tokens,
            activations: if i % 2 == 0 { &active } else { &SILENT },
        })
        .collect();
    let documents = |split| -> HashSet<u64> {
        let config = ExampleConfig {
            split,
            active: 400,
            silent: 400,
            ..ExampleConfig::default()
        };
        let chosen = examples(&windows, &config);
        chosen
            .labelled()
            .map(|(window, _)| window.document)
            .collect()
    };
    let (train, test) = (documents(Split::Train), documents(Split::Test));
    assert!(train.len() > 150 && test.len() > 150);
    assert!(train.is_disjoint(&test));
}

#[test]
fn half_of_the_documents_train() {
    let train = (0..10_000)
        .filter(|&document| Split::of_document(document) == Split::Train)
        .count();
    // Expected 5000, standard deviation 50.
    assert!((4_750..5_250).contains(&train), "{train}");
    // Part of the meaning of stored scores: the split of a document never changes.
    let first: Vec<u64> = test_documents().take(8).collect();
    assert_eq!(first, FIRST_TEST_DOCUMENTS);
}

/// From a Python transcription of SplitMix64's finalizer.
const FIRST_TEST_DOCUMENTS: [u64; 8] = [0, 1, 2, 3, 5, 6, 7, 11];

#[test]
fn a_document_is_cut_into_full_windows() {
    let tokens: Vec<u32> = (0..70).collect();
    let activations: Vec<f32> = (0..70).map(|i| i as f32).collect();
    let windows = Window::cut(3, &tokens, &activations, WINDOW).unwrap();
    assert_eq!(windows.len(), 2);
    assert_eq!(windows[1].tokens, &tokens[32..64]);
    assert_eq!(windows[1].max(), 63.0);
    assert_eq!(windows[0].firing_tokens(), 31);
    assert!(Window::cut(3, &tokens, &activations[1..], WINDOW).is_err());
    assert!(Window::cut(3, &tokens, &activations, 0).is_err());
}

#[test]
fn unusable_input_is_refused() {
    let pool = Pool::new(100, 100);
    let windows = pool.windows();
    let config = ExampleConfig::default();
    for bad in [
        ExampleConfig {
            active: 55,
            ..config.clone()
        },
        ExampleConfig {
            cuts: 0,
            ..config.clone()
        },
        ExampleConfig {
            at_least: 0,
            ..config.clone()
        },
    ] {
        assert!(Examples::choose(0, &windows, &bad).is_err());
    }
    let nan = Window {
        document: 0,
        tokens: &[1],
        activations: &[f32::NAN],
    };
    let short = Window {
        document: 0,
        tokens: &[1, 2],
        activations: &[1.0],
    };
    for bad in [nan, short] {
        assert!(Examples::choose(0, &[bad], &config).is_err());
    }
}
