//! What in a recipe cannot be: values that contradict each other. Types and ranges of single keys
//! are checked while reading.

use lapidary_coder::{ArchitectureKind, MOST_LAYERS, SiteKeys, Sites};
use lapidary_io::settings::Reader;

use super::Recipe;
use crate::architectures::{Choices, facts, method};
use crate::error::SaeError;
use crate::keys::{DeadLatents, DecoderNorm, Facts, SparsityPenalty};

impl Recipe {
    /// Refuses values that contradict each other and need no model to see it. `keys` are those of
    /// the sites, as they were given.
    pub(super) fn check(&self, file: &str, r: &Reader, keys: &SiteKeys) -> Result<(), SaeError> {
        let t = &self.training;
        let range = |key: &str, ok: bool, found: String, expected: &str| -> Result<(), SaeError> {
            if ok {
                return Ok(());
            }
            Err(r.wrong(key, found, expected).into())
        };
        let first = self.exclude.first_positions;
        range(
            "activations.exclude.first_positions",
            first < self.corpus.context,
            first.to_string(),
            &format!(
                "less than `corpus.context`, {}: nothing would be left of a sequence",
                self.corpus.context
            ),
        )?;
        let kind = self.coder.architecture;
        let facts = facts(kind);
        let contradiction = |message: String| {
            Err(SaeError::Config {
                place: file.to_owned(),
                message,
            })
        };
        if self.coder.target_l0.is_some() {
            let Some(key) = facts.penalty_weight else {
                return contradiction(format!(
                    "`coder.target_l0` does not go with `coder.architecture` = \"{kind}\": it is for {}",
                    those(|facts| facts.penalty_weight.is_some())
                ));
            };
            let weight = self.values().get(key).and_then(toml::Value::as_float);
            if weight == Some(0.0) {
                return contradiction(format!(
                    "`coder.target_l0` needs `{key}` above 0, which it multiplies"
                ));
            }
        }
        match (self.coder.k_start, t.k_anneal_steps) {
            (Some(start), _) => {
                let counts_latents =
                    |kind: &ArchitectureKind| kind.takes_k() && !kind.counts_steps();
                if !counts_latents(&kind) {
                    return contradiction(format!(
                        "`coder.k_start` does not go with `coder.architecture` = \"{kind}\": it is for {}",
                        listed(ArchitectureKind::all().filter(counts_latents), "and")
                    ));
                }
                let expected = format!("at least `coder.k` = {}", self.coder.k);
                let falls = start >= self.coder.k;
                range("coder.k_start", falls, start.to_string(), &expected)?;
                if let Some(over) = t.k_anneal_steps {
                    let expected = format!("fewer than all {} steps of training", self.steps());
                    let fewer = over < self.steps();
                    range(
                        "training.k_anneal_steps",
                        fewer,
                        over.to_string(),
                        &expected,
                    )?;
                }
            }
            (None, Some(_)) => {
                return contradiction("`training.k_anneal_steps` needs `coder.k_start`".to_owned());
            }
            (None, None) => {}
        }
        let real =
            |key: &str, v: f64, ok: bool, expected: &str| range(key, ok, v.to_string(), expected);
        if let Some(n) = self.coder.decoder_init_norm {
            match self.starts_at_zero() {
                true => real("coder.decoder_init_norm", n, n >= 0.0, "0 or more")?,
                false => real("coder.decoder_init_norm", n, n > 0.0, "more than 0")?,
            }
        }
        let wrong = |kind| method(kind).wrong(&self.architectures);
        if let Some(wrong) = ArchitectureKind::all().find_map(wrong) {
            return Err(r.wrong(wrong.key, wrong.found, wrong.expected).into());
        }

        if t.tokens < t.batch_tokens as u64 {
            return contradiction(format!(
                "`training.tokens` = {} is less than one batch, `training.batch_tokens` = {}",
                t.tokens, t.batch_tokens
            ));
        }
        if self.activations.buffer_tokens < t.batch_tokens {
            return contradiction(format!(
                "`activations.buffer_tokens` = {} holds less than one batch, `training.batch_tokens` = {}",
                self.activations.buffer_tokens, t.batch_tokens
            ));
        }
        if self.coder.d_sae.is_some() && self.coder.expansion_factor.is_some() {
            return contradiction(
                "`coder.d_sae` and `coder.expansion_factor` both set the number of latents: remove one"
                    .to_owned(),
            );
        }
        if let Some(d_sae) = self.coder.d_sae {
            self.check_latents(file, d_sae)?;
        }
        if self.coder.multi_topk && kind != ArchitectureKind::TopK {
            return contradiction(format!(
                "`coder.multi_topk` does not go with `coder.architecture` = \"{kind}\": it is an option of \"topk\""
            ));
        }
        let transcodes = self.sites.transcodes();
        if let Sites::CrossLayer { from, to } = &self.sites
            && let Some(message) = self.cross_layer_error(from, to)
        {
            return contradiction(message);
        }
        match (&keys.other_model, &keys.other_hook_point) {
            (None, Some(_)) => {
                return contradiction("`other_hook_point` needs `other_model`".to_owned());
            }
            (Some(_), _) => {
                let beside = [
                    ("hook_points", !keys.hook_points.is_empty()),
                    ("hook_points_out", !keys.hook_points_out.is_empty()),
                    ("hook_point_out", keys.hook_point_out.is_some()),
                    ("activations.store", self.activations.store.is_some()),
                    ("training.loss", t.loss.is_end_to_end()),
                    ("evaluation.tokens", self.evaluation.tokens > 0),
                ];
                if let Some((key, _)) = beside.into_iter().find(|(_, there)| *there) {
                    return contradiction(format!(
                        "`{key}` does not go with `other_model`: a crosscoder of two models reads one hook point in each, while both run on the text, and metrics are not made for two"
                    ));
                }
            }
            (None, None) => {}
        }
        if let Some(message) = self.dead_latents_error() {
            return contradiction(message);
        }
        if let Some(every) = t.resample_every_steps {
            range(
                "training.resample_every_steps",
                every > 0,
                every.to_string(),
                "at least 1",
            )?;
            if t.revival != DeadLatents::Resampling {
                return contradiction(
                    "`training.resample_every_steps` needs `training.revival` = \"resampling\""
                        .to_owned(),
                );
            }
        }
        if t.sparsity_penalty != SparsityPenalty::L1 && kind != ArchitectureKind::Standard {
            return contradiction(format!(
                "`training.sparsity_penalty` = \"{}\" does not go with `coder.architecture` = \"{kind}\": it is an option of \"standard\"",
                t.sparsity_penalty
            ));
        }
        if t.loss.is_end_to_end() {
            if !facts.trains_end_to_end || self.coder.multi_topk {
                return contradiction(format!(
                    "`training.loss` = \"{}\" does not go with `coder.architecture` = \"{kind}\"{}: it is for {}",
                    t.loss,
                    if self.coder.multi_topk {
                        " and `coder.multi_topk`"
                    } else {
                        ""
                    },
                    those(|facts| facts.trains_end_to_end)
                ));
            }
            if self.activations.store.is_some() {
                return contradiction(format!(
                    "`training.loss` = \"{}\" does not go with `activations.store`: the model must run on the text",
                    t.loss
                ));
            }
            let residual = |hook: &&String| hook.contains("hook_resid");
            let written = self.sites.written();
            if written.len() > 1
                && written.iter().any(|h| residual(&h))
                && t.local_coefficient == 0.0
            {
                return contradiction(format!(
                    "`training.loss` = \"{}\" with several hook points needs `training.local_coefficient` above 0: the reconstruction at {} hides the effect of the earlier ones, \
                     so part of the coder would not be trained",
                    t.loss,
                    written.iter().rfind(residual).expect("there is one")
                ));
            }
            if !t.batch_tokens.is_multiple_of(self.corpus.context) {
                return contradiction(format!(
                    "`training.batch_tokens` = {} is no multiple of `corpus.context` = {}: with `training.loss` = \"{}\" batches are whole blocks",
                    t.batch_tokens, self.corpus.context, t.loss
                ));
            }
        } else if t.local_coefficient > 0.0 {
            return contradiction(
                "`training.local_coefficient` needs `training.loss` = \"kl\" or \"ce\": the local loss by itself has weight 1"
                    .to_owned(),
            );
        }
        let several = match &self.sites {
            Sites::Autoencoder { .. } => None,
            Sites::Transcoder { .. } => Some("hook_point_out"),
            Sites::Crosscoder { .. } | Sites::CrossLayer { .. } => Some("hook_points"),
            Sites::TwoModels { .. } => Some("other_model"),
        };
        if let Some(key) = several.filter(|_| !kind.has_encoder()) {
            return contradiction(format!(
                "`{key}` does not go with `coder.architecture` = \"{kind}\": a coder without an encoder cannot be a transcoder or a crosscoder"
            ));
        }
        if !keys.hook_points.is_empty() {
            let points = &keys.hook_points;
            let twice = (1..points.len()).find(|i| points[..*i].contains(&points[*i]));
            if points.len() < 2 || twice.is_some() {
                let found = format!("{points:?}");
                let expected = "two hook points or more, each once";
                return Err(r.wrong("hook_points", found, expected).into());
            }
            if keys.hook_point_out.is_some() || keys.hook_point.as_ref() != points.first() {
                return contradiction(
                    "`hook_points` are all that a coder reads: leave out `hook_point` and `hook_point_out`"
                        .to_owned(),
                );
            }
        }
        if transcodes && self.coder.apply_b_dec_to_input {
            return contradiction(
                "`coder.apply_b_dec_to_input` = true does not go with `hook_point_out`: `b_dec` belongs to the activations there"
                    .to_owned(),
            );
        }
        if self.coder.skip_connection && !transcodes {
            return contradiction(
                "`coder.skip_connection` needs a `hook_point_out` other than `hook_point`: the skip connection of an autoencoder could reconstruct its input without latents"
                    .to_owned(),
            );
        }
        let free = t.decoder_norm == DecoderNorm::Free;
        if free && !facts.may_free_decoder_norm(transcodes) {
            return contradiction(format!(
                "`training.decoder_norm` = \"free\" does not go with `coder.architecture` = \"{kind}\": \
                 the k largest activations are comparable only if all decoder rows have one norm"
            ));
        }
        if let (false, Some(norm)) = (free, self.coder.decoder_init_norm)
            && norm != 1.0
        {
            return contradiction(format!(
                "`coder.decoder_init_norm` = {norm} does not go with `training.decoder_norm` = \"unit\": leave it out or make it 1"
            ));
        }
        Ok(())
    }

    /// Refuses what cannot be with so many latents.
    pub(super) fn check_latents(&self, place: &str, d_sae: usize) -> Result<(), SaeError> {
        let kind = self.coder.architecture;
        let refuse = |message: String| {
            let place = place.to_owned();
            Err(SaeError::Config { place, message })
        };
        if let Some(message) = self.architecture_error(d_sae) {
            return refuse(message);
        }
        let most = self.coder.k.max(self.coder.k_start.unwrap_or(0));
        let limit = kind.most_k(d_sae);
        if kind.takes_k() && most > limit {
            let key = if most == self.coder.k { "k" } else { "k_start" };
            return refuse(match kind.counts_steps() {
                true => format!("`coder.{key}`: found {most}, expected at most {limit} steps"),
                false => format!(
                    "`coder.{key}` = {most} is more than the number of latents, d_sae = {d_sae}"
                ),
            });
        }
        Ok(())
    }

    /// What cannot be with so many latents of the recipe's architecture, if anything.
    fn architecture_error(&self, d_sae: usize) -> Option<String> {
        method(self.coder.architecture).contradiction(&Choices {
            coder: &self.coder,
            training: &self.training,
            tables: &self.architectures,
            d_sae,
            steps: self.steps(),
        })
    }

    /// Why the treatment of dead latents does not go with the coder, if it does not.
    fn dead_latents_error(&self) -> Option<String> {
        let (kind, layers) = (self.coder.architecture, self.sites.layers());
        let fits: fn(&Facts) -> bool = match self.training.revival {
            DeadLatents::None => return None,
            DeadLatents::AuxK => |facts| facts.has_aux_k,
            DeadLatents::GhostGradients => |facts| facts.has_ghost_gradients,
            DeadLatents::Resampling => |facts| facts.can_be_resampled,
        };
        let one_layer = self.training.revival == DeadLatents::Resampling;
        if fits(&facts(kind)) && (layers == 1 || !one_layer) {
            return None;
        }
        Some(format!(
            "`training.revival` = \"{}\" does not go with this coder, a {kind} one{}: it is for {}{}",
            self.training.revival,
            match layers {
                1 => "",
                _ => " of several layers",
            },
            those(fits),
            match one_layer {
                true => ", but for cross-layer transcoders",
                false => "",
            }
        ))
    }

    /// Why a recipe cannot be one of a cross-layer transcoder, if it cannot.
    fn cross_layer_error(&self, read: &[String], written: &[String]) -> Option<String> {
        if read.len() != written.len() || read.len() < 2 {
            return Some(format!(
                "`hook_points`, `hook_points_out`: found {} and {} hook points, expected as many in both, and at least 2",
                read.len(),
                written.len()
            ));
        }
        if read.len() > MOST_LAYERS {
            return Some(format!(
                "`hook_points`: found {}, expected at most {MOST_LAYERS} layers",
                read.len()
            ));
        }
        let kind = self.coder.architecture;
        if !kind.crosses_layers() {
            return Some(format!(
                "`hook_points_out` does not go with `coder.architecture` = \"{kind}\": cross-layer transcoders are {}",
                listed(
                    ArchitectureKind::all().filter(|kind| kind.crosses_layers()),
                    "or"
                )
            ));
        }
        if self.coder.skip_connection || self.coder.multi_topk {
            let key = match self.coder.skip_connection {
                true => "skip_connection",
                false => "multi_topk",
            };
            return Some(format!(
                "`coder.{key}` does not go with `hook_points_out`: a cross-layer transcoder has none"
            ));
        }
        for (key, hooks) in [("hook_points", read), ("hook_points_out", written)] {
            let mut before = None;
            for hook in hooks {
                let layer = match hook.parse::<lapidary_model::HookPoint>() {
                    Ok(parsed) => parsed.layer(),
                    Err(error) => return Some(format!("`{key}`: {error}")),
                };
                if layer.is_none() || layer <= before {
                    return Some(format!(
                        "`{key}`: found {hook} where layers should ascend, expected a hook point of each layer in turn"
                    ));
                }
                before = layer;
            }
        }
        let parsed = |hook: &String| hook.parse::<lapidary_model::HookPoint>().ok()?.layer();
        for (read, written) in read.iter().zip(written) {
            if parsed(read) > parsed(written) {
                return Some(format!(
                    "`hook_points_out`: found {written} for what is read at {read}, expected a hook point of that layer or a later one"
                ));
            }
        }
        None
    }
}

/// The names of the architectures of which this holds.
fn those(holds: fn(&Facts) -> bool) -> String {
    let all = ArchitectureKind::all();
    listed(all.filter(|kind| holds(&facts(*kind))), "and")
}

fn listed(kinds: impl Iterator<Item = ArchitectureKind>, last: &str) -> String {
    let names: Vec<String> = kinds.map(|kind| format!("\"{kind}\"")).collect();
    match names.split_last() {
        Some((end, rest)) if !rest.is_empty() => format!("{} {last} {end}", rest.join(", ")),
        _ => names.concat(),
    }
}
