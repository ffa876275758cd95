use super::*;
use crate::labels::ngrams::CandidateSet;

const FREQUENT: u32 = 3;
const FIRST: u32 = 5;

/// 40 000 tokens of 0 to 7, three in ten of them `FREQUENT`. The bigram (`FIRST`, `FREQUENT`) comes
/// every 200 tokens and nowhere else; each token comes equally often before it.
fn corpus() -> Vec<u32> {
    let mut state = 1u64;
    let mut tokens: Vec<u32> = Vec::new();
    for position in 0..40_000u32 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let draw = (state >> 33) % 10;
        let mut token = if draw < 8 { draw as u32 } else { FREQUENT };
        match position % 200 {
            100 => token = position / 200 % 8,
            101 => token = FIRST,
            102 => token = FREQUENT,
            _ if token == FREQUENT && tokens.last() == Some(&FIRST) => token = 4,
            _ => {}
        }
        tokens.push(token);
    }
    tokens
}

struct Planted {
    corpus: Vec<u32>,
    windows: Vec<(Vec<u32>, Vec<f32>)>, // peak at index 4
}

impl Planted {
    /// A latent that fires on the bigram (12 contexts), and a little less on the frequent token
    /// elsewhere (3 contexts).
    fn new() -> Self {
        let corpus = corpus();
        let mut windows = Vec::new();
        let mut window = |peak: usize, activation: f32| {
            let mut activations = vec![0.0; 7];
            activations[4] = activation;
            windows.push((corpus[peak - 4..peak + 3].to_vec(), activations));
        };
        for i in 0..12 {
            window(102 + 200 * i, 9.0 + i as f32 / 12.0);
        }
        for i in 0..3 {
            let peak = (5_000 + 1_000 * i..)
                .find(|&at| corpus[at] == FREQUENT && corpus[at - 1] != FIRST)
                .unwrap();
            window(peak, 8.0);
        }
        Planted { corpus, windows }
    }

    fn contexts(&self) -> Vec<LabelContext<'_>> {
        self.windows
            .iter()
            .map(|(token_ids, activations)| LabelContext {
                token_ids,
                activations,
                peak_index: 4,
            })
            .collect()
    }

    fn counts(&self, repeats: usize) -> CorpusCounts {
        let mut candidates = CandidateSet::new(3).unwrap();
        for context in self.contexts() {
            candidates.add(&context).unwrap();
        }
        let mut counts = CorpusCounts::new(candidates);
        for _ in 0..repeats {
            counts.observe(&self.corpus);
        }
        counts
    }

    fn labels(&self, lambda: f64) -> Vec<PmiLabel> {
        let config = PmiConfig {
            lambda,
            labels: 100,
            ..PmiConfig::default()
        };
        pmi_labels(&self.contexts(), &self.counts(1), &config).unwrap()
    }
}

#[test]
fn a_latent_on_a_rare_bigram_is_labelled_by_it_unless_lambda_is_zero_or_one() {
    let planted = Planted::new();
    assert_eq!(planted.labels(0.0)[0].ngram, Ngram::unigram(FREQUENT));
    for lambda in [0.2, 0.3, 0.4, 0.5] {
        let best = &planted.labels(lambda)[0];
        assert_eq!(best.ngram.tokens(), [FIRST, FREQUENT], "{lambda}");
        assert_eq!(best.place, LabelPlace::Firing);
        assert_eq!(best.corpus_count, 200);
    }
    // At 1 a single context's trigram, rarer still, goes ahead.
    assert_eq!(planted.labels(1.0)[0].ngram.tokens().len(), 3);
    assert_eq!(
        top_token_label(&planted.contexts()).unwrap(),
        Some((FREQUENT, 15))
    );
}

#[test]
fn at_lambda_zero_the_frequent_token_wins_even_if_the_bigram_is_in_every_context() {
    let planted = Planted::new();
    let config = PmiConfig {
        lambda: 0.0,
        ..PmiConfig::default()
    };
    let contexts = &planted.contexts()[..12];
    let labels = pmi_labels(contexts, &planted.counts(1), &config).unwrap();
    assert_eq!(labels[0].ngram, Ngram::unigram(FREQUENT));
    assert_eq!(labels[1].ngram, Ngram::unigram(FIRST));
    assert_eq!(labels[1].place, LabelPlace::Before);
    assert_eq!(labels[2].ngram.tokens(), [FIRST, FREQUENT]);
    assert_eq!(labels[0].score, labels[2].score);
}

#[test]
fn repeating_the_corpus_changes_no_label_and_no_score() {
    let planted = Planted::new();
    let config = PmiConfig {
        min_count: 1,
        labels: 100,
        ..PmiConfig::default()
    };
    let contexts = planted.contexts();
    let once = pmi_labels(&contexts, &planted.counts(1), &config).unwrap();
    let twice = pmi_labels(&contexts, &planted.counts(2), &config).unwrap();
    assert!(once.len() > 20);
    assert_eq!(once.len(), twice.len());
    for (a, b) in once.iter().zip(&twice) {
        assert_eq!(2 * a.corpus_count, b.corpus_count);
        assert_eq!((a.ngram, a.place), (b.ngram, b.place));
        assert_eq!(a.score.to_bits(), b.score.to_bits());
    }
}

#[test]
fn rescaling_the_activations_changes_no_score() {
    let planted = Planted::new();
    let before = planted.labels(0.2);
    let mut rescaled = Planted::new();
    for (_, activations) in &mut rescaled.windows {
        activations.iter_mut().for_each(|value| *value *= 1e-4);
    }
    let after = rescaled.labels(0.2);
    assert_eq!(before.len(), after.len());
    for (a, b) in before.iter().zip(&after) {
        assert_eq!(a.ngram, b.ngram);
        assert!((a.score - b.score).abs() < 1e-6);
    }
}

#[test]
fn scores_equal_the_formula_by_hand() {
    // Peaks 3 and 1, mean 2: weights 1.5 and 0.5. Token 1 is at the first peak and before the
    // second; the second context has token 1 in both places.
    let contexts = [
        LabelContext {
            token_ids: &[2, 1],
            activations: &[0.0, 3.0],
            peak_index: 1,
        },
        LabelContext {
            token_ids: &[1, 1],
            activations: &[0.5, 1.0],
            peak_index: 1,
        },
    ];
    let mut candidates = CandidateSet::new(2).unwrap();
    for context in &contexts {
        candidates.add(context).unwrap();
    }
    let mut counts = CorpusCounts::new(candidates);
    counts.observe(&[1, 1, 2, 1, 2, 1, 0, 0]);
    let config = PmiConfig {
        lambda: 0.25,
        min_count: 2,
        labels: 10,
    };
    let labels = pmi_labels(&contexts, &counts, &config).unwrap();
    let get = |tokens: &[u32]| {
        labels
            .iter()
            .find(|label| label.ngram.tokens() == tokens)
            .map(|label| label.score)
    };
    let expected = |w: f64, p: f64| ((w + 0.5) / 3.0).ln() - 0.25 * p.ln();
    for (tokens, want) in [
        (&[1][..], expected(2.0, 4.0 / 8.0)),
        (&[2], expected(1.5, 2.0 / 8.0)),
        (&[2, 1], expected(1.5, 2.0 / 7.0)),
    ] {
        assert!((get(tokens).unwrap() - want).abs() < 1e-12, "{tokens:?}");
    }
    // (1, 1) occurs once, below the minimum.
    assert_eq!(get(&[1, 1]), None);
}

#[test]
fn rare_ngrams_are_labels_only_from_the_minimum_count_on() {
    let planted = Planted::new();
    let labels = |min_count| {
        let config = PmiConfig {
            lambda: 1.0,
            min_count,
            labels: 100,
        };
        pmi_labels(&planted.contexts(), &planted.counts(1), &config).unwrap()
    };
    let counts: Vec<u64> = labels(1).iter().map(|label| label.corpus_count).collect();
    let smallest = *counts.iter().min().unwrap();
    assert!(labels(smallest).iter().any(|l| l.corpus_count == smallest));
    assert!(
        labels(smallest + 1)
            .iter()
            .all(|l| l.corpus_count > smallest)
    );
}

#[test]
fn what_cannot_be_labelled_is_said() {
    let planted = Planted::new();
    let counts = planted.counts(1);
    let config = PmiConfig::default();
    assert!(pmi_labels(&[], &counts, &config).unwrap().is_empty());
    assert_eq!(top_token_label(&[]).unwrap(), None);

    let unseen = LabelContext {
        token_ids: &[70, 71],
        activations: &[0.0, 1.0],
        peak_index: 1,
    };
    let error = pmi_labels(&[unseen], &counts, &config).unwrap_err();
    assert!(
        error.to_string().contains("no count of the n-gram [70]"),
        "{error}"
    );
    for bad in [
        PmiConfig {
            lambda: f64::NAN,
            ..config.clone()
        },
        PmiConfig {
            lambda: -0.1,
            ..config.clone()
        },
        PmiConfig {
            min_count: 0,
            ..config.clone()
        },
    ] {
        assert!(pmi_labels(&planted.contexts(), &counts, &bad).is_err());
    }
}

#[test]
fn top_token_ties_go_to_the_lower_id() {
    let activations = [1.0];
    let context = |token_ids| LabelContext {
        token_ids,
        activations: &activations,
        peak_index: 0,
    };
    let contexts = [&[9], &[4], &[9], &[4], &[1]].map(|token_ids| context(token_ids));
    assert_eq!(top_token_label(&contexts).unwrap(), Some((4, 2)));
}
