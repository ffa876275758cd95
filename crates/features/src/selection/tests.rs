use super::*;

const SHARED: u32 = 40;
const PER_TOPIC: u32 = 20;
const D_SAE: usize = 240;

/// Uniform draws below 1.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / 2f64.powi(64)
    }

    fn below(&mut self, n: u32) -> u32 {
        (self.next() * f64::from(n)) as u32
    }
}

type Tokens = Vec<(Vec<u32>, Vec<f32>)>;

fn embed(tokens: &[(Vec<u32>, Vec<f32>)]) -> Embedding {
    let mut mean = MeanCodes::new(D_SAE);
    for (indices, values) in tokens {
        mean.add_token(indices, values).unwrap();
    }
    mean.finish()
}

/// A document of one of ten topics. Each token fires six latents that all documents share and two
/// of the twenty latents of its topic.
fn document(draws: &mut Draws, topic: u32, scales: &[f32]) -> Tokens {
    let tokens = 20 + draws.below(80);
    (0..tokens)
        .map(|_| {
            let mut indices: Vec<u32> = (0..6).map(|_| draws.below(SHARED)).collect();
            let own = SHARED + topic * PER_TOPIC;
            indices.extend((0..2).map(|_| own + draws.below(PER_TOPIC)));
            indices.sort_unstable();
            indices.dedup();
            let values = indices
                .iter()
                .map(|&index| scales[index as usize] * (0.5 + draws.next() as f32))
                .collect();
            (indices, values)
        })
        .collect()
}

/// Pareto scales with shape 1.5: a mean, but no variance. Jaccard adds activations, the cosine adds
/// their squares.
fn heavy_tailed_scales(draws: &mut Draws) -> Vec<f32> {
    (0..D_SAE)
        .map(|_| (1.0 - draws.next()).powf(-1.0 / 1.5) as f32)
        .collect()
}

/// Precision among the first 10% of a pool of 300 documents, 10% of them on topic, by each
/// similarity to five target documents.
fn precision_at_ten_percent(seed: u64) -> [f64; 2] {
    let mut draws = Draws(seed << 32);
    let scales = heavy_tailed_scales(&mut draws);
    let targets: Vec<Embedding> = (0..5)
        .map(|_| embed(&document(&mut draws, 0, &scales)))
        .collect();
    let task = task_embedding(&targets).unwrap();
    let mut rankings = [Similarity::Jaccard, Similarity::Cosine]
        .map(|similarity| PoolRanking::new(task.clone(), similarity));
    for i in 0..300 {
        let embedding = embed(&document(&mut draws, i % 10, &scales));
        for ranking in &mut rankings {
            ranking.score(&embedding);
        }
    }
    rankings.map(|ranking| {
        let selected = ranking.select(TopShare::Percent(10.0)).unwrap();
        assert_eq!(selected.len(), 30);
        selected.iter().filter(|i| **i % 10 == 0).count() as f64 / 30.0
    })
}

#[test]
fn jaccard_finds_a_planted_topic_under_heavy_tailed_scales_and_cosine_less_of_it() {
    let pools: Vec<[f64; 2]> = (0..20).map(precision_at_ten_percent).collect();
    let mean = |which: usize| pools.iter().map(|pool| pool[which]).sum::<f64>() / 20.0;
    println!(
        "precision@10%: mean {:.3} and {:.3}, {pools:.2?}",
        mean(0),
        mean(1)
    );
    assert!(mean(0) >= 0.9, "{}", mean(0));
    assert!(mean(0) > mean(1) + 0.02, "{} {}", mean(0), mean(1));
}

#[test]
fn the_streamed_mean_equals_the_dense_mean() {
    let mut draws = Draws(3);
    let scales = heavy_tailed_scales(&mut draws);
    let mut tokens = document(&mut draws, 0, &scales);
    tokens.push((vec![], vec![]));
    tokens.push((vec![9, 9, 4], vec![1.0, 2.0, 0.0]));
    let mut dense = vec![0.0f64; D_SAE];
    for (indices, values) in &tokens {
        for (&index, &value) in indices.iter().zip(values) {
            dense[index as usize] += f64::from(value);
        }
    }
    let embedding = embed(&tokens);
    let mut streamed = vec![0.0; D_SAE];
    for &(index, value) in embedding.entries() {
        streamed[index as usize] = value;
    }
    for (got, sum) in streamed.iter().zip(&dense) {
        assert_eq!(*got, sum / tokens.len() as f64);
    }
    assert!(
        embedding
            .entries()
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0)
    );
    assert!(embedding.entries().iter().all(|(_, value)| *value > 0.0));
}

#[test]
fn repeating_every_token_leaves_the_embedding_unchanged() {
    let mut draws = Draws(4);
    let scales = heavy_tailed_scales(&mut draws);
    let tokens = document(&mut draws, 1, &scales);
    let repeated = [tokens.clone(), tokens.clone(), tokens.clone()].concat();
    let (once, thrice) = (embed(&tokens), embed(&repeated));
    assert_eq!(once.entries().len(), thrice.entries().len());
    for (a, b) in once.entries().iter().zip(thrice.entries()) {
        assert_eq!(a.0, b.0);
        assert!((a.1 / b.1 - 1.0).abs() < 1e-12);
    }
}

#[test]
fn a_document_is_stored_by_the_latents_that_fire_not_by_its_tokens() {
    let mut mean = MeanCodes::new(1 << 20);
    for _ in 0..10_000 {
        mean.add_token(&[7, 70_000], &[1.0, 2.0]).unwrap();
    }
    assert!(mean.sums.capacity() < 16);
    assert_eq!(mean.finish().entries(), [(7, 1.0), (70_000, 2.0)]);
}

fn random_embeddings(n: u64) -> Vec<Embedding> {
    (0..n)
        .map(|seed| {
            let mut draws = Draws(seed << 20);
            let scales = heavy_tailed_scales(&mut draws);
            embed(&document(&mut draws, seed as u32 % 2, &scales))
        })
        .collect()
}

fn scaled(embedding: &Embedding, factor: f64) -> Embedding {
    Embedding {
        entries: embedding
            .entries
            .iter()
            .map(|&(i, v)| (i, factor * v))
            .collect(),
    }
}

#[test]
fn similarities_equal_a_dense_computation() {
    let dense = |embedding: &Embedding| {
        let mut values = vec![0.0; D_SAE];
        for &(index, value) in embedding.entries() {
            values[index as usize] = value;
        }
        values
    };
    let embeddings = random_embeddings(8);
    for a in &embeddings {
        for b in &embeddings {
            let (x, y) = (dense(a), dense(b));
            let pairs = || x.iter().zip(&y);
            let min: f64 = pairs().map(|(a, b)| a.min(*b)).sum();
            let max: f64 = pairs().map(|(a, b)| a.max(*b)).sum();
            let dot: f64 = pairs().map(|(a, b)| a * b).sum();
            let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((Similarity::Jaccard.of(a, b) - min / max).abs() < 1e-12);
            let cosine = dot / (norm(&x) * norm(&y));
            assert!((Similarity::Cosine.of(a, b) - cosine).abs() < 1e-12);
        }
    }
}

#[test]
fn jaccard_is_symmetric_between_zero_and_one_and_blind_to_joint_scaling() {
    let embeddings = random_embeddings(10);
    let jaccard = |a: &Embedding, b: &Embedding| Similarity::Jaccard.of(a, b);
    for a in &embeddings {
        assert_eq!(jaccard(a, a), 1.0);
        for b in &embeddings {
            let j = jaccard(a, b);
            assert!((0.0..=1.0).contains(&j));
            assert_eq!(j, jaccard(b, a));
            for factor in [1e-6, 3.7, 1e9] {
                assert!((jaccard(&scaled(a, factor), &scaled(b, factor)) - j).abs() < 1e-12);
            }
        }
    }
    // Unlike the cosine it sees the scale of one alone: J(a, 2a) = 1/2.
    let twice = scaled(&embeddings[0], 2.0);
    assert!((jaccard(&embeddings[0], &twice) - 0.5).abs() < 1e-12);
    let zero = Embedding::default();
    for similarity in [Similarity::Jaccard, Similarity::Cosine] {
        assert_eq!(similarity.of(&zero, &zero), 0.0);
        assert_eq!(similarity.of(&zero, &embeddings[0]), 0.0);
    }
}

#[test]
fn target_documents_weigh_the_same_whatever_their_length() {
    let short = embed(&[(vec![1], vec![4.0])]);
    let long = embed(&vec![(vec![1, 2], vec![2.0, 1.0]); 100]);
    let task = task_embedding(&[short, long]).unwrap();
    assert_eq!(task.entries(), [(1, 3.0), (2, 0.5)]);
    assert!(task_embedding(&[]).is_err());
}

#[test]
fn ties_go_to_the_earlier_document() {
    let task = embed(&[(vec![1], vec![1.0])]);
    let mut ranking = PoolRanking::new(task, Similarity::Jaccard);
    let near = embed(&[(vec![1, 2], vec![1.0, 1.0])]);
    let far = MeanCodes::new(D_SAE).finish();
    let scores = [&far, &near, &far, &near, &near].map(|document| ranking.score(document));
    assert_eq!(scores, [0.0, 0.5, 0.0, 0.5, 0.5]);
    assert_eq!(ranking.scores(), scores);
    assert_eq!(ranking.ranked(), [1, 3, 4, 0, 2]);
    assert_eq!(ranking.select(TopShare::Count(2)).unwrap(), [1, 3]);
    assert!(ranking.select(TopShare::Count(6)).is_err());
}

#[test]
fn shares_are_percentages_or_counts() {
    let count = |text: &str, pool| text.parse::<TopShare>().unwrap().count(pool).unwrap();
    assert_eq!(count("5%", 1000), 50);
    assert_eq!(count(" 2.5 % ", 1000), 25);
    assert_eq!(count("5%", 3), 1);
    assert_eq!(count("5%", 0), 0);
    assert_eq!(count("100%", 7), 7);
    assert_eq!(count("7", 7), 7);
    for text in [
        "", "%", "0%", "-5%", "101%", "NaN%", "0", "-3", "five", "2.5", "inf%",
    ] {
        assert!(text.parse::<TopShare>().is_err(), "{text}");
    }
    assert!(TopShare::Percent(f64::NAN).count(10).is_err());
    assert!(TopShare::Percent(0.0).count(10).is_err());
}

#[test]
fn codes_that_cannot_be_right_are_refused_and_add_nothing() {
    let mut mean = MeanCodes::new(4);
    mean.add_token(&[1], &[2.0]).unwrap();
    let refused: [(&[u32], &[f32]); 5] = [
        (&[1, 2], &[1.0]),
        (&[1, 4], &[1.0, 1.0]),
        (&[1, 2], &[1.0, -1.0]),
        (&[1, 2], &[1.0, f32::NAN]),
        (&[1, 2], &[1.0, f32::INFINITY]),
    ];
    for (indices, values) in refused {
        assert!(mean.add_token(indices, values).is_err(), "{values:?}");
    }
    assert_eq!(mean.finish().entries(), [(1, 2.0)]);
}
