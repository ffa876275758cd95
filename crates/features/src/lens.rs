//! The logit lens on weights: what directions in the residual stream do to the logits by themselves
//! (Davies 2025, "Flash Interpretability", does this with the weights of MLP neurons).

use burn::tensor::Tensor;
use lapidary_model::{LanguageModel, Norm, Tokenizer};
use rayon::prelude::*;

/// Most logits that are in memory at once.
const LOGITS: usize = 1 << 24;

/// Tokens with their logits.
pub type TokenLogits = Vec<(u32, f32)>;

/// What a direction does to the logits by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitEffect {
    /// The tokens whose logits it raises most, with these logits, highest first.
    pub promoted: TokenLogits,
    /// Those whose logits it lowers most, lowest first.
    pub suppressed: TokenLogits,
    /// The probability of the first promoted token: the softmax over all tokens of the logits as
    /// they are. It grows with the norm of the direction.
    pub probability: f32,
    /// Excess kurtosis of the logits over all tokens: 0 for normally distributed ones, large if a
    /// few tokens stand out. It does not depend on the norm of the direction.
    pub kurtosis: f32,
}

impl LogitEffect {
    /// The promoted and the suppressed tokens.
    pub fn into_tokens(self) -> (TokenLogits, TokenLogits) {
        (self.promoted, self.suppressed)
    }
}

/// Which tokens may be listed as promoted or suppressed: all but pieces of characters that the text
/// never `has`, which were never trained.
pub fn shown_tokens(tokenizer: &Tokenizer, has: impl Fn(u32) -> bool) -> impl Fn(u32) -> bool {
    move |token| has(token) || tokenizer.has_whole_characters(token)
}

/// What directions in the residual stream `[n, d_model]` do to the logits by themselves, with the
/// `top` tokens of each end, of those that are `shown`. A logit is direction (less its mean, where
/// the final norm takes the mean away) times the final norm's weight times the unembedding, the
/// norm's scale left out.
pub fn logit_effects(
    model: &LanguageModel,
    directions: Tensor<2>,
    top: usize,
    shown: &dyn Fn(u32) -> bool,
) -> Vec<LogitEffect> {
    let seen = match model.config().norm {
        Norm::Layer => directions.clone() - directions.mean_dim(1),
        Norm::Rms => directions,
    };
    let directions = seen * model.final_norm_weight().unsqueeze(); // [n, d_model]
    let unembedding = model.unembedding(); // [d_model, d_vocab]
    let (n, d_vocab) = (directions.dims()[0], model.config().d_vocab);
    let shown: Vec<u32> = (0..d_vocab as u32).filter(|token| shown(*token)).collect();
    let rows = (LOGITS / d_vocab.max(1)).max(1);
    let mut effects = Vec::with_capacity(n);
    for start in (0..n).step_by(rows) {
        let some = directions.clone().narrow(0, start, rows.min(n - start));
        let logits = some.matmul(unembedding.clone()).into_data(); // [some, d_vocab]
        let logits: Vec<f32> = logits.iter::<f32>().collect();
        effects.par_extend(
            logits
                .par_chunks_exact(d_vocab)
                .map(|row| effect(row, &shown, top)),
        );
    }
    effects
}

fn effect(logits: &[f32], shown: &[u32], top: usize) -> LogitEffect {
    let [promoted, suppressed] = [1.0, -1.0].map(|sign| extreme(logits, shown, top, sign));
    let n = logits.len() as f64;
    let mean = logits.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let moment = |power| {
        let powers = logits.iter().map(|v| (f64::from(*v) - mean).powi(power));
        powers.sum::<f64>() / n
    };
    let (variance, fourth) = (moment(2), moment(4));
    let kurtosis = match variance > 0.0 {
        true => fourth / (variance * variance) - 3.0,
        false => 0.0,
    };
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let above = |v: f32| f64::from(v - largest).exp();
    let all: f64 = logits.iter().map(|v| above(*v)).sum();
    let first = promoted.first().map_or(0.0, |(_, logit)| above(*logit));
    LogitEffect {
        promoted,
        suppressed,
        probability: (first / all) as f32,
        kurtosis: kurtosis as f32,
    }
}

/// The `n` largest of `sign * row` at some `places`, most extreme first, ties to the lower place.
fn extreme(row: &[f32], places: &[u32], n: usize, sign: f32) -> Vec<(u32, f32)> {
    let order = |a: &u32, b: &u32| {
        (sign * row[*b as usize])
            .total_cmp(&(sign * row[*a as usize]))
            .then(a.cmp(b))
    };
    let mut places = places.to_vec();
    let n = n.min(places.len());
    if n < places.len() && n > 0 {
        places.select_nth_unstable_by(n - 1, order);
    }
    places.truncate(n);
    places.sort_unstable_by(order);
    places.into_iter().map(|i| (i, row[i as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn host(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    #[test]
    fn a_planted_direction_promotes_its_token() {
        let model = LanguageModel::load("embedded", &Device::flex()).unwrap();
        // No other row of the unembedding has a larger product with the longest one.
        let norms = host(model.unembedding().square().sum_dim(0));
        let longest = (0..norms.len()).max_by(|a, b| norms[*a].total_cmp(&norms[*b]));
        let token = longest.unwrap();
        // What the norm's weight does to the direction is undone.
        let row = model.unembedding().transpose().narrow(0, token, 1); // [1, d_model]
        let row = row / model.final_norm_weight().unsqueeze();
        let rows = Tensor::cat(
            vec![row.clone() * 0.5, row.clone() * 400.0, row * -400.0],
            0,
        );
        let effects = logit_effects(&model, rows, 4, &|_| true);
        assert_eq!(effects[0].promoted[0].0, token as u32);
        assert_eq!(effects[1].promoted[0].0, token as u32);
        assert_eq!(effects[2].suppressed[0].0, token as u32);
        assert!(effects[1].probability > effects[0].probability);
        assert!(effects[1].probability > 0.99, "{}", effects[1].probability);
        let [weak, strong] = [effects[0].kurtosis, effects[1].kurtosis];
        assert!((weak - strong).abs() < 1e-4, "{weak} {strong}");
    }

    /// More directions than fit into memory at once, against one dense product.
    #[test]
    fn blocks_of_directions_give_what_one_product_gives() {
        let device = Device::flex();
        let model = LanguageModel::load("embedded", &device).unwrap();
        let (d_model, d_vocab) = (model.config().d_model, model.config().d_vocab);
        let n = LOGITS / d_vocab + 3;
        let rows: Vec<f32> = (0..n * d_model).map(|i| (i as f32 * 0.37).sin()).collect();
        let rows = Tensor::<1>::from_floats(rows.as_slice(), &device).reshape([n, d_model]);
        let effects = logit_effects(&model, rows.clone(), 3, &|token| token % 2 == 0);
        assert_eq!(effects.len(), n);
        for at in [0, n - 4, n - 3, n - 1] {
            let row = rows.clone().narrow(0, at, 1) * model.final_norm_weight().unsqueeze();
            let logits = host(row.matmul(model.unembedding()));
            let mut order: Vec<u32> = (0..d_vocab as u32).filter(|t| t % 2 == 0).collect();
            order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            let found: Vec<u32> = effects[at].promoted.iter().map(|p| p.0).collect();
            assert_eq!(found, order[..3]);
            order.reverse();
            let found: Vec<u32> = effects[at].suppressed.iter().map(|p| p.0).collect();
            assert_eq!(found, order[..3]);
            let sum: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
            let expected = f64::from(logits[effects[at].promoted[0].0 as usize]).exp() / sum;
            assert!((f64::from(effects[at].probability) - expected).abs() < 1e-4 * expected);
        }
    }

    #[test]
    fn pieces_of_characters_are_shown_only_if_the_text_has_them() {
        let model = LanguageModel::load("embedded", &Device::flex()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        let all = 0..model.config().d_vocab as u32;
        let broken = |token: &u32| tokenizer.token_text(*token).starts_with("<0x");
        let pieces: Vec<u32> = all.clone().filter(broken).collect();
        assert!(!pieces.is_empty());
        let hidden = |has: &[u32]| -> Vec<u32> {
            let shown = shown_tokens(tokenizer, |token| has.contains(&token));
            all.clone().filter(|token| !shown(*token)).collect()
        };
        assert_eq!(hidden(&[]), pieces);
        assert_eq!(hidden(&pieces[..1]), pieces[1..]);
    }

    #[test]
    fn kurtosis_is_that_of_known_distributions() {
        // Two values with equal shares: -2. One value of n that stands out: n - 6 + …
        let two: Vec<f32> = (0..100).map(|i| (i % 2) as f32).collect();
        let shown: Vec<u32> = (0..100).collect();
        assert!((effect(&two, &shown, 1).kurtosis + 2.0).abs() < 1e-6);
        let mut one = vec![0.0; 100];
        one[3] = 5.0;
        let p = 0.01_f32;
        let expected = (1.0 - 6.0 * p * (1.0 - p)) / (p * (1.0 - p));
        let found = effect(&one, &shown, 1);
        assert!(
            (found.kurtosis - expected).abs() < 1e-3,
            "{}",
            found.kurtosis
        );
        assert_eq!(found.promoted, [(3, 5.0)]);
        assert_eq!(effect(&[1.0; 4], &shown[..4], 1).kurtosis, 0.0);
    }

    #[test]
    fn extremes_come_in_order_and_ties_go_to_the_lower_place() {
        let row = [1.0, 3.0, -2.0, 3.0, 0.0];
        let all = [0, 1, 2, 3, 4];
        assert_eq!(extreme(&row, &all, 3, 1.0), [(1, 3.0), (3, 3.0), (0, 1.0)]);
        assert_eq!(extreme(&row, &all, 2, -1.0), [(2, -2.0), (4, 0.0)]);
        assert_eq!(extreme(&row, &all, 9, 1.0).len(), 5);
        assert_eq!(extreme(&row, &[0, 3], 1, -1.0), [(0, 1.0)]);
    }
}
