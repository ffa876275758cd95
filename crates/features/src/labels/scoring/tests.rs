use super::*;

const TOKENS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
const ACTIVE: [[f32; 8]; 3] = [
    [0.0, 10.0, 3.0, 2.9, 0.0, 0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    [5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
];
const SILENT: [f32; 8] = [0.0; 8];

fn window(activations: &'static [f32]) -> Window<'static> {
    Window {
        document: 0,
        tokens: &TOKENS,
        activations,
    }
}

/// Three firing windows with 3 + 1 + 2 firing tokens, and four silent ones.
fn examples(latent: usize) -> Examples<'static> {
    Examples {
        latent,
        active: ACTIVE.iter().map(|values| window(values)).collect(),
        silent: vec![window(&SILENT); 4],
    }
}

fn fires(window: &Window<'_>) -> bool {
    window.max() > 0.0
}

/// Whether the marks are those of the activations.
fn right(window: &Window<'_>, marks: &[bool]) -> bool {
    fires(window) && activation_marks(window.activations) == marks
}

#[test]
fn an_oracle_scores_one_a_constant_one_half_and_an_inverted_oracle_zero() {
    let examples = examples(0);
    let accuracies = |oracle: Confusion, constants: [Confusion; 2], inverted: Confusion| {
        assert_eq!(oracle.balanced_accuracy(), Some(1.0));
        assert_eq!(
            (oracle.precision(), oracle.recall()),
            (Some(1.0), Some(1.0))
        );
        assert_eq!(oracle.f1(), Some(1.0));
        for constant in constants {
            assert_eq!(constant.balanced_accuracy(), Some(0.5));
        }
        assert_eq!(inverted.balanced_accuracy(), Some(0.0));
        assert_eq!(inverted.f1(), Some(0.0));
    };
    accuracies(
        detection(&examples, |window| Some(fires(window))),
        [true, false].map(|constant| detection(&examples, |_| Some(constant))),
        detection(&examples, |window| Some(!fires(window))),
    );
    accuracies(
        fuzzing(&examples, 1, |window, marks| Some(right(window, marks))),
        [true, false].map(|constant| fuzzing(&examples, 1, |_, _| Some(constant))),
        fuzzing(&examples, 1, |window, marks| Some(!right(window, marks))),
    );
}

#[test]
fn metrics_equal_their_definitions() {
    let confusion = Confusion {
        true_positives: 30,
        false_positives: 10,
        true_negatives: 40,
        false_negatives: 20,
        malformed: 5,
    };
    let close = |got: Option<f64>, want: f64| assert!((got.unwrap() - want).abs() < 1e-15);
    close(confusion.balanced_accuracy(), (0.6 + 0.8) / 2.0);
    close(confusion.precision(), 0.75);
    close(confusion.recall(), 0.6);
    close(confusion.f1(), 2.0 * 0.75 * 0.6 / (0.75 + 0.6));
    let empty = Confusion::default();
    assert_eq!(empty.balanced_accuracy(), None);
    assert_eq!(
        (empty.precision(), empty.recall(), empty.f1()),
        (None, None, None)
    );
}

#[test]
fn malformed_replies_are_counted_and_change_no_score() {
    let examples = examples(0);
    let mut asked = 0;
    let confusion = detection(&examples, |window| {
        asked += 1;
        (asked % 2 == 0).then_some(fires(window))
    });
    assert_eq!(asked, 7);
    assert_eq!(confusion.malformed, 4);
    assert_eq!(confusion.balanced_accuracy(), Some(1.0));
    let none = fuzzing(&examples, 1, |_, _| None);
    assert_eq!((none.malformed, none.balanced_accuracy()), (7, None));
}

#[test]
fn marks_start_exactly_at_three_tenths_of_the_maximum() {
    assert_eq!(
        activation_marks(&ACTIVE[0]),
        [false, true, true, false, false, false, false, false]
    );
    assert_eq!(activation_marks(&SILENT), [false; 8]);
    assert_eq!(activation_marks(&[-1.0, -2.0]), [false; 2]);
    for i in 1..5000u32 {
        let max = i as f32 * 0.037;
        let boundary = 0.3 * max;
        assert_eq!(
            activation_marks(&[boundary, max, boundary.next_down()]),
            [true, true, false],
            "{max}"
        );
    }
}

#[test]
fn a_silent_window_gets_the_mean_number_of_firing_tokens_rounded_up() {
    // (3 + 1 + 2) / 3 = 2; one more firing token makes it 7 / 3, rounded up to 3.
    let two = examples(0);
    let mut three = examples(0);
    three.active[1] = window(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0]);
    for (examples, expected) in [(two, 2), (three, 3)] {
        for item in fuzzing_items(&examples, 5) {
            if !item.fires {
                assert_eq!(item.marks.iter().filter(|mark| **mark).count(), expected);
            }
        }
    }
}

#[test]
fn random_marks_cover_all_positions_and_follow_the_seed() {
    let mut marked = [0u32; 8];
    for seed in 0..500 {
        for item in fuzzing_items(&examples(0), seed).iter().skip(3) {
            for (count, &mark) in marked.iter_mut().zip(&item.marks) {
                *count += u32::from(mark);
            }
        }
    }
    // 2000 windows with 2 marks of 8: expected 500 each, standard deviation 19.
    assert!(
        marked.iter().all(|&n| (410..590).contains(&n)),
        "{marked:?}"
    );
    let marks = |latent, seed| fuzzing_items(&examples(latent), seed);
    assert_eq!(marks(0, 1), marks(0, 1));
    assert_ne!(marks(0, 1), marks(0, 2));
    assert_ne!(marks(0, 1), marks(9, 1));
}

#[test]
fn latents_pool_by_windows_and_weigh_by_frequency() {
    let score = |latent, firings, tp, fp, negatives| LatentScore {
        latent,
        firings,
        confusion: Confusion {
            true_positives: tp,
            false_positives: fp,
            true_negatives: negatives,
            false_negatives: 0,
            malformed: 1,
        },
    };
    let mut scores = Scores {
        per_latent: vec![score(0, 30, 10, 0, 10), score(1, 10, 5, 10, 0)],
        unscored: Vec::new(),
    };
    let pooled = scores.pooled();
    assert_eq!((pooled.true_positives, pooled.malformed), (15, 2));
    // TPR 15 / 15, TNR 10 / 20.
    assert_eq!(pooled.balanced_accuracy(), Some(0.75));
    // F1 of 1 and 10 / 20.
    assert_eq!(
        scores.frequency_weighted_f1(),
        Some((30.0 + 0.5 * 10.0) / 40.0)
    );
    // A latent with nothing but malformed replies, and one that was not scored, change nothing.
    scores.per_latent.push(score(2, 1000, 0, 0, 0));
    scores.unscored.push(TooFewWindows {
        latent: 3,
        active: 2,
        silent: 100,
    });
    assert_eq!(scores.frequency_weighted_f1(), Some(0.875));
    assert_eq!(Scores::default().frequency_weighted_f1(), None);
}
