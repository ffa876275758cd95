//! What a training's log says has gone wrong: a collapse that is worth a warning and advice, while
//! it trains and in the report.

use lapidary_coder::ArchitectureKind;
use lapidary_sae::recipe::JumpReluPenalty;
use lapidary_sae::{Recipe, StepReport};

/// What is watched for; each is said once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    DeadLatents,
    HighFvu,
    RisingFvu,
    L0,
}

/// The start of a run in which nothing is said, as a part of it: L0 and FVU begin far from where
/// they end.
const START: f64 = 0.2;
/// FVU times its lowest, from which on it rises.
const RISE: f64 = 2.0;
/// How far L0 may end from where the recipe wants it, as a part of that.
const L0_TOLERANCE: f64 = 0.1;

/// Watches the steps of one coder.
pub(crate) struct Course {
    steps: u64,
    /// Of all layers.
    latents: u64,
    lr: Option<f64>,
    /// Active latents per token that the recipe asks for, of all layers, with the key that does.
    aim: Option<(f64, &'static str)>,
    has_penalty: bool,
    /// Whether a controller weighs the penalty.
    has_target: bool,
    /// Whether FVU rises with a number of active latents that falls.
    gets_sparser: bool,
    lowest_fvu: f64,
    /// New starts so far, and the step of the last one.
    restarts: u64,
    started: u64,
    said: Vec<Trouble>,
}

impl Course {
    /// For a coder of `recipe`, in which `d_sae` and `lr` have values.
    pub(crate) fn new(recipe: &Recipe) -> Self {
        let (kind, coder) = (recipe.coder.architecture, &recipe.coder);
        let layers = recipe.sites.layers();
        let has_penalty = !kind.takes_k();
        let quadratic = &recipe.architectures.jumprelu;
        let aim = match (coder.target_l0, kind) {
            (Some(target), _) => Some((target, "coder.target_l0")),
            (None, ArchitectureKind::JumpRelu)
                if quadratic.penalty == JumpReluPenalty::Quadratic =>
            {
                quadratic.target_l0.map(|t| (t, "coder.jumprelu.target_l0"))
            }
            _ if has_penalty || kind.counts_steps() => None, // pursuit may end before its last step
            _ => Some((coder.k as f64, "coder.k")),
        };
        Self {
            steps: recipe.steps(),
            latents: (coder.d_sae.unwrap_or(0) * layers) as u64,
            lr: recipe.training.lr,
            aim: aim.map(|(l0, key)| (l0 * layers as f64, key)),
            has_penalty,
            has_target: coder.target_l0.is_some(),
            gets_sparser: has_penalty || coder.k_start.is_some(),
            lowest_fvu: f64::INFINITY,
            restarts: 0,
            started: 0,
            said: vec![],
        }
    }

    /// Goes on with a coder that has started anew `restarts` times.
    pub(crate) fn resumed(mut self, restarts: [u64; 2]) -> Self {
        [self.restarts, self.started] = restarts;
        self.lr = self.lr.map(|lr| lr / 2_f64.powi(self.restarts as i32));
        self
    }

    /// What a logged step shows that was not said before.
    pub(crate) fn watch(&mut self, r: &StepReport) -> Vec<String> {
        if r.restarts > self.restarts {
            // The step's own rate may be one of warm-up.
            self.lr = (self.lr).map(|lr| lr / 2_f64.powi((r.restarts - self.restarts) as i32));
            // The step's figures are those of the coder that is gone.
            (self.restarts, self.started) = (r.restarts, r.step);
            self.lowest_fvu = f64::INFINITY;
            self.said.clear();
            let lr = self.lr.map_or(String::new(), |lr| format!(", {lr:.1e}"));
            return vec![format!(
                "step {}: the coder has diverged and starts anew with half the learning rate{lr}, for the \
                 steps that are left. A lower training.lr would use all of them",
                r.step
            )];
        }
        let (since, left) = (r.step - self.started, self.steps - self.started);
        if (since as f64) < START * left as f64 {
            return vec![];
        }
        let mut new = vec![];
        self.lowest_fvu = self.lowest_fvu.min(r.fvu);
        let mut say = |trouble, text: String| {
            if !self.said.contains(&trouble) {
                self.said.push(trouble);
                new.push(format!("step {}: {text}", r.step));
            }
        };
        let lower_lr = self.lr.map_or_else(
            || "a lower training.lr".to_owned(),
            |lr| format!("a training.lr below {lr:.1e}"),
        );
        let weaker = match self.has_penalty {
            true if self.has_target => "a higher coder.target_l0",
            true => "a weaker penalty (or a coder.target_l0)",
            false => "a smaller coder.d_sae",
        };
        if r.dead > self.latents / 2 {
            let text = format!(
                "{} of {} latents are dead. What may help: {lower_lr}, more training.tokens, {weaker}",
                r.dead, self.latents
            );
            say(Trouble::DeadLatents, text);
        }
        if r.fvu >= 1.0 {
            let text = format!(
                "FVU is {:.3}: the reconstruction is no better than the mean activation. What may help: {lower_lr}{}",
                r.fvu,
                match self.has_penalty {
                    true => format!(", {weaker}"),
                    false => String::new(),
                }
            );
            say(Trouble::HighFvu, text);
        } else if !self.gets_sparser && r.fvu > RISE * self.lowest_fvu {
            let text = format!(
                "FVU has risen from {:.3} to {:.3}: the training diverges. What may help: {lower_lr}",
                self.lowest_fvu, r.fvu
            );
            say(Trouble::RisingFvu, text);
        }
        if let Some((aim, key)) = self.aim
            && r.step == self.steps
            && (r.l0 / aim - 1.0).abs() > L0_TOLERANCE
        {
            let text = format!(
                "L0 is {:.1}, and {key} asks for {aim}. What may help: more training.tokens, {lower_lr}",
                r.l0
            );
            say(Trouble::L0, text);
        } else if self.aim.is_none() && r.l0 < 1.0 {
            let text = format!(
                "L0 is {:.2}, less than one active latent per token. What may help: {weaker}",
                r.l0
            );
            say(Trouble::L0, text);
        }
        new
    }
}

/// All that a log shows of a coder of `recipe`, in which `d_sae` and `lr` have values.
pub(crate) fn troubles(recipe: &Recipe, log: &[StepReport]) -> Vec<String> {
    let mut course = Course::new(recipe);
    log.iter().flat_map(|report| course.watch(report)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> Recipe {
        let text = format!("training.tokens = 204800\n{text}"); // 100 steps
        let recipe = Recipe::parse("test", &text, &[]).unwrap();
        recipe.resolve(64).unwrap().recipe().clone()
    }

    /// A log whose steps have these numbers of dead latents, FVU and L0.
    fn log(steps: &[(u64, u64, f64, f64)]) -> Vec<StepReport> {
        let line = |(step, dead, fvu, l0): &(u64, u64, f64, f64)| {
            let line = serde_json::json!({
                "step": step, "tokens": 0, "loss": 0.0, "mse": 0.0, "fvu": fvu, "l0": l0, "penalty": 0.0,
                "aux": 0.0, "dead": dead, "lr": 1e-3, "grad_norm": 0.0,
            });
            serde_json::from_value(line).unwrap()
        };
        steps.iter().map(line).collect()
    }

    #[test]
    fn a_sound_run_is_not_warned_about() {
        let sound = [
            (1, 0, 3.0, 32.0),
            (50, 100, 0.1, 32.0),
            (100, 500, 0.11, 32.0),
        ];
        assert_eq!(troubles(&recipe(""), &log(&sound)), [""; 0]);
        let sparser = [
            (1, 0, 3.0, 900.0),
            (50, 0, 0.01, 300.0),
            (100, 0, 0.1, 33.0),
        ];
        let relu = "coder.architecture = 'standard'\ncoder.target_l0 = 32";
        assert_eq!(troubles(&recipe(relu), &log(&sparser)), [""; 0]);
    }

    #[test]
    fn each_new_start_is_said_and_the_coder_that_is_gone_is_not() {
        let mut log = log(&[
            (10, 900, 9.0, 32.0),
            (30, 900, 9.0, 32.0),
            (40, 900, 9.0, 32.0),
            (90, 600, 0.3, 32.0),
        ]);
        let counts = [0, 1, 3, 3];
        log.iter_mut()
            .zip(counts)
            .for_each(|(report, count)| report.restarts = count);
        let mut recipe = recipe("");
        recipe.training.lr = Some(8e-3);
        let said = troubles(&recipe, &log);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said[0].contains("step 30: the coder has diverged")
                && said[0].contains("learning rate, 4.0e-3,"),
            "{said:?}"
        );
        assert!(said[1].contains("learning rate, 1.0e-3,"), "{said:?}");
        assert!(
            said[2].starts_with("step 90: 600 of 1024 latents are dead"),
            "{said:?}"
        );
    }

    #[test]
    fn each_collapse_is_said_once_with_its_numbers() {
        let topk = recipe("");
        let of = |recipe: &Recipe, steps: &[(u64, u64, f64, f64)]| troubles(recipe, &log(steps));
        let dead = of(&topk, &[(50, 600, 0.1, 32.0), (100, 700, 0.1, 32.0)]);
        assert_eq!(dead.len(), 1);
        assert!(
            dead[0].starts_with("step 50: 600 of 1024 latents are dead."),
            "{dead:?}"
        );
        let rising = of(
            &topk,
            &[(50, 0, 0.1, 32.0), (60, 0, 0.3, 32.0), (70, 0, 0.9, 32.0)],
        );
        assert_eq!(rising.len(), 1);
        assert!(
            rising[0].starts_with("step 60: FVU has risen from 0.100 to 0.300"),
            "{rising:?}"
        );
        let high = of(&topk, &[(50, 0, 1.2, 32.0)]);
        assert!(high[0].starts_with("step 50: FVU is 1.200"), "{high:?}");
        let few = of(&topk, &[(100, 0, 0.1, 20.0)]);
        assert!(
            few[0].starts_with("step 100: L0 is 20.0, and coder.k asks for 32."),
            "{few:?}"
        );
        let pursuit = recipe("coder.architecture = 'matching_pursuit'");
        assert!(of(&pursuit, &[(100, 0, 0.1, 20.0)]).is_empty());
        let target = recipe("coder.architecture = 'gated'\ncoder.target_l0 = 32");
        let dead = of(&target, &[(50, 600, 0.1, 32.0)]);
        assert!(dead[0].ends_with("a higher coder.target_l0"), "{dead:?}");
        let gated = recipe("coder.architecture = 'gated'");
        assert!(of(&gated, &[(100, 0, 0.1, 20.0)]).is_empty());
        let none = of(&gated, &[(50, 0, 0.1, 0.5)]);
        assert!(
            none[0].starts_with("step 50: L0 is 0.50, less than one"),
            "{none:?}"
        );
        let quadratic = "coder.architecture = 'jumprelu'\n\
                         coder.jumprelu = { penalty = 'quadratic', target_l0 = 32 }";
        let off = of(&recipe(quadratic), &[(100, 0, 0.1, 40.0)]);
        assert!(
            off[0].contains("coder.jumprelu.target_l0 asks for 32"),
            "{off:?}"
        );
    }
}
