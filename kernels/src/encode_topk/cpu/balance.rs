//! Factors that make dimensions more alike before they are rounded to few bits: a few dimensions
//! of the inputs that are much larger than the others set the scale of whole rows. Inputs are
//! divided by them and weights multiplied, so products stay what they are. They are powers of two:
//! nothing is rounded.

/// Rows and latents that are looked at.
const SAMPLE: usize = 64;

/// Largest factor, as a power of two.
const MOST: f32 = 12.0;

/// A factor for each dimension, and its reciprocal.
pub(super) struct Balance {
    up: Vec<f32>,   // [d]
    down: Vec<f32>, // [d]
}

impl Balance {
    /// Factors for inputs `x` `[n, d]` and weights `w` `[F, d]`; none where they would all be 1.
    /// With the factor √(size in x / size in w), inputs and weights are equally large in each
    /// dimension; most dimensions keep 1, since only their sizes relative to each other matter.
    pub fn of(x: &[f32], w: &[f32], d: usize) -> Option<Self> {
        let (x, w) = (sizes(x, d), sizes(w, d));
        let wanted = |(x, w): (&f32, &f32)| match *x > 0.0 && *w > 0.0 {
            true => Some(0.25 * (x.log2() - w.log2())), // of mean squares
            false => None,
        };
        let wanted: Vec<Option<f32>> = x.iter().zip(&w).map(wanted).collect();
        let mut known: Vec<f32> = wanted.iter().flatten().copied().collect();
        known.sort_by(f32::total_cmp);
        let median = *known.get(known.len() / 2)?;
        let power = |wanted: Option<f32>| match wanted {
            Some(wanted) => (wanted - median).round().clamp(0.0, MOST),
            None => 0.0,
        };
        let powers: Vec<f32> = wanted.into_iter().map(power).collect();
        powers.iter().any(|power| *power > 0.0).then(|| Self {
            up: powers.iter().map(|power| power.exp2()).collect(),
            down: powers.iter().map(|power| (-power).exp2()).collect(),
        })
    }

    /// A row of inputs, with its dimensions made smaller.
    pub fn input(&self, x: &[f32], out: &mut [f32]) {
        multiply(x, &self.down, out);
    }

    /// The weights of a latent, with the same dimensions made larger.
    pub fn weights(&self, w: &[f32], out: &mut [f32]) {
        multiply(w, &self.up, out);
    }
}

fn multiply(v: &[f32], factors: &[f32], out: &mut [f32]) {
    for ((out, v), factor) in out.iter_mut().zip(v).zip(factors) {
        *out = v * factor;
    }
}

/// The mean square of each dimension over some of the rows, those with a number that is not finite
/// left out.
fn sizes(rows: &[f32], d: usize) -> Vec<f32> {
    let n = rows.len().checked_div(d).unwrap_or(0);
    let mut sums = vec![0.0f32; d];
    let mut counted = 0.0;
    for row in rows.chunks_exact(d).step_by(n.div_ceil(SAMPLE).max(1)) {
        let largest = row.iter().map(|v| v.abs()).fold(0.0, f32::max);
        if !(largest > 0.0 && largest.is_finite() && row.iter().all(|v| !v.is_nan())) {
            continue;
        }
        // Each row counts the same, and no square overflows.
        for (sum, v) in sums.iter_mut().zip(row) {
            *sum += (v / largest).powi(2);
        }
        counted += 1.0;
    }
    sums.iter()
        .map(|sum| sum / f32::max(counted, 1.0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(at: usize) -> f32 {
        ((at * 7919 % 1013) as f32 - 506.0) / 250.0
    }

    #[test]
    fn dimensions_that_dominate_are_made_smaller_in_inputs_and_larger_in_weights() {
        let d = 50;
        let large = |at: usize| if at % d == 7 { 256.0 } else { 1.0 };
        let x: Vec<f32> = (0..200 * d).map(|at| wave(at) * large(at)).collect();
        let w: Vec<f32> = (0..300 * d).map(|at| wave(at + 3)).collect();
        let balance = Balance::of(&x, &w, d).unwrap();
        let others = (0..d).filter(|at| *at != 7);
        assert!(others.clone().all(|at| balance.up[at] == 1.0));
        // √256 = 16, or less, since each row counts by its largest number.
        assert!([8.0, 16.0].contains(&balance.up[7]), "{}", balance.up[7]);
        let (mut a, mut b) = (vec![0.0; d], vec![0.0; d]);
        balance.input(&x[..d], &mut a);
        balance.weights(&w[..d], &mut b);
        let each = |(a, b): (&f32, &f32)| a * b;
        let products: Vec<f32> = a.iter().zip(&b).map(each).collect();
        let plain: Vec<f32> = x.iter().zip(&w).take(d).map(each).collect();
        assert_eq!(products, plain);
    }

    #[test]
    fn what_is_alike_or_unknown_is_left_alone() {
        let d = 40;
        let x: Vec<f32> = (0..100 * d).map(wave).collect();
        assert!(Balance::of(&x, &x, d).is_none());
        assert!(Balance::of(&vec![0.0; 10 * d], &x, d).is_none());
        assert!(Balance::of(&[], &x, d).is_none());
        let mut broken = x.clone();
        broken.iter_mut().step_by(d).for_each(|v| *v = f32::NAN);
        assert!(Balance::of(&broken, &x, d).is_none());
        // A dimension that is 0 everywhere in one of both keeps its factor.
        let mut flat = x.clone();
        flat.iter_mut().step_by(d).for_each(|v| *v = 0.0);
        assert!(Balance::of(&flat, &x, d).is_none());
    }
}
