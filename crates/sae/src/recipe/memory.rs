//! How much memory training needs at least.

use super::ResolvedRecipe;
use crate::error::SaeError;

/// Rows whose gradients through a pursuit exist at one time on the CPU.
const PURSUIT_ROWS: usize = 128;

impl ResolvedRecipe {
    /// Refuses a recipe that does not fit into this machine's memory, for a coder that
    /// reads `d_in` numbers per token and reconstructs `d_out`. Otherwise the process would abort
    /// halfway.
    ///
    /// # Errors
    /// Weights, gradients and moments do not fit, or a pursuit's steps do not.
    pub fn check_memory(&self, d_in: usize, d_out: usize) -> Result<(), SaeError> {
        let d_sae = self.coder.d_sae;
        let weights = self.weight_numbers(d_sae, d_in, d_out);
        let refuse = |numbers: usize, problem: &str| {
            let gib = numbers as f64 * 4.0 / (1u64 << 30) as f64;
            Err(SaeError::Config {
                place: "configuration".to_owned(),
                message: format!(
                    "{problem}: training takes at least {gib:.0} GiB, more than this machine has"
                ),
            })
        };
        if !fits(weights) {
            return refuse(
                weights,
                &format!(
                    "`coder.d_sae`: found {d_sae}, expected fewer latents that read {d_in} dimensions \
                     and write {d_out}"
                ),
            );
        }
        let all = weights.saturating_add(self.step_numbers(d_in));
        if !fits(all) {
            let (k, batch) = (self.coder.k, self.training.batch_tokens);
            return refuse(
                all,
                &format!(
                    "`coder.k`: found {k}, expected fewer steps for each of `training.batch_tokens` = \
                     {batch} tokens"
                ),
            );
        }
        Ok(())
    }

    /// Encoder and decoder four times: weights, gradients and Adam's two moments.
    fn weight_numbers(&self, d_sae: usize, d_in: usize, d_out: usize) -> usize {
        // The L layers write at L, L − 1, … hook points, each at (L + 1) / 2 on average.
        let layers = self.sites().layers();
        let written = match layers {
            1 => d_out,
            _ => (d_out / layers).saturating_mul(layers * (layers + 1) / 2),
        };
        let widths = d_in.saturating_add(written);
        d_sae.saturating_mul(widths).saturating_mul(4)
    }

    /// The steps of a pursuit, whose number no number of latents bounds: atom and value of each as
    /// the pursuit gives them, as the host reads them and as codes, and the gradients of some rows.
    fn step_numbers(&self, d_in: usize) -> usize {
        if !self.coder.architecture.counts_steps() {
            return 0;
        }
        let (k, batch) = (self.coder.k, self.training.batch_tokens);
        let steps = k.saturating_mul(batch).saturating_mul(6);
        let gradients = k
            .saturating_mul(d_in)
            .saturating_mul(batch.min(PURSUIT_ROWS));
        steps.saturating_add(gradients)
    }
}

/// Whether the system would give room for so many numbers.
fn fits(numbers: usize) -> bool {
    Vec::<f32>::new().try_reserve_exact(numbers).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::Recipe;

    fn refused(text: &str, width: usize) -> String {
        let config = Recipe::parse("run.toml", text, &[]).unwrap();
        let config = config.resolve(width).unwrap();
        let checked = config.check_memory(width, width);
        checked.map_or_else(|error| error.to_string(), |()| "nothing".to_owned())
    }

    #[test]
    fn a_dictionary_that_no_machine_holds_is_refused() {
        let error = refused("coder.d_sae = 2147483647", 100_000);
        assert!(
            error.contains("GiB") && error.contains("`coder.d_sae`: found 2147483647, expected"),
            "{error}"
        );
        assert_eq!(refused("coder.d_sae = 4096", 256), "nothing");
    }

    #[test]
    fn steps_of_a_pursuit_that_no_machine_holds_are_refused() {
        let text = "coder.architecture = 'matching_pursuit'\ncoder.d_sae = 64\n";
        let large = "training.batch_tokens = 1000000000\nactivations.buffer_tokens = 1000000000\n\
                     training.tokens = 1000000000\n";
        let error = refused(&format!("{text}{large}coder.k = 65536"), 16);
        assert!(
            error.contains("GiB") && error.contains("`coder.k`: found 65536, expected fewer steps"),
            "{error}"
        );
        assert_eq!(refused(&format!("{text}coder.k = 100"), 16), "nothing");
    }
}
