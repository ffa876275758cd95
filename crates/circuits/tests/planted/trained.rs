//! A model of two layers that was trained on repeated sequences. No one built its circuit: it is
//! the smallest set of heads that keeps the behaviour, found by trying all sets.

use burn::tensor::Device;
use lapidary_circuits::{Graph, Metric, Prompt, Task};
use lapidary_model::LanguageModel;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Words before the repetition begins.
const LENGTH: usize = 10;

pub fn model() -> LanguageModel {
    let folder = "/../../tests/fixtures/models/repeats";
    let folder = format!("{}{folder}", env!("CARGO_MANIFEST_DIR"));
    LanguageModel::load(&folder, &Device::flex()).unwrap()
}

/// Words that come twice, and the next one. Corrupted: other words come first, so that nothing
/// repeats. (With one other word, as in the task `induction`, the words before it still tell this
/// model where it is.)
pub fn task(model: &LanguageModel, n: usize) -> Task {
    let tokenizer = model.tokenizer().unwrap();
    let mut words: Vec<u32> = vec![];
    for consonant in "bdfgklmn".chars() {
        for vowel in "aeiou".chars() {
            let word = tokenizer.encode(&format!(" {consonant}{vowel}")).unwrap();
            assert_eq!(word.len(), 1);
            words.extend(word);
        }
    }
    let bos = model.config().bos.unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let prompt = |_| {
        let (chosen, _) = words.partial_shuffle(&mut rng, 2 * LENGTH);
        let (first, others) = chosen.split_at(LENGTH);
        let m = rng.random_range(LENGTH / 2..LENGTH);
        let after = |before: &[u32]| [&[bos], before, &first[..m]].concat();
        let wrong = (m + rng.random_range(1..LENGTH - 1)) % LENGTH;
        Prompt {
            clean: after(first),
            corrupted: after(others),
            answers: vec![first[m]],
            wrong: vec![first[wrong]],
        }
    };
    Task {
        name: "repeats".into(),
        prompts: (0..n).map(prompt).collect(),
        metric: Metric::LogitDifference,
    }
}

/// All sets of heads.
pub fn subsets(graph: &Graph) -> Vec<Vec<(usize, usize)>> {
    let heads: Vec<(usize, usize)> = graph.all_heads().collect();
    let of = |set: u32| {
        let members = heads.iter().enumerate();
        let members = members.filter(|(i, _)| set >> i & 1 == 1);
        members.map(|(_, head)| *head).collect()
    };
    (0..1 << heads.len()).map(of).collect()
}
