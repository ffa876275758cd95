//! What in a recipe cannot be: ranges, and keys that contradict each other.

use lapidary_model::settings::Reader;

use super::{RunConfig, frees_decoder_norm};
use crate::coder::Architecture;
use crate::cross_layer;
use crate::error::SaeError;
use crate::revival::Revival;

impl RunConfig {
    /// Ranges and contradictions that need no model. The type was checked while reading.
    pub(super) fn check(&self, file: &str, r: &Reader) -> Result<(), SaeError> {
        let t = &self.training;
        let range = |key: &str, ok: bool, found: String, expected: &str| -> Result<(), SaeError> {
            if ok {
                return Ok(());
            }
            Err(r.wrong(key, found, expected).into())
        };
        let positive = |key: &str, v: u64| range(key, v > 0, v.to_string(), "at least 1");
        positive("corpus.context", self.corpus.context as u64)?;
        let first = self.activations.exclude.first_positions;
        range(
            "activations.exclude.first_positions",
            first < self.corpus.context,
            first.to_string(),
            &format!(
                "less than `corpus.context`, {}: nothing would be left of a sequence",
                self.corpus.context
            ),
        )?;
        positive(
            "activations.harvest_blocks",
            self.activations.harvest_blocks as u64,
        )?;
        positive("coder.k", self.coder.k as u64)?;
        positive("training.batch_tokens", t.batch_tokens as u64)?;
        positive("training.log_every_steps", t.log_every_steps)?;
        positive("training.dead_check_every_steps", t.dead_check_every_steps)?;
        match (self.coder.k_start, t.k_anneal_steps) {
            (Some(start), _) => {
                let method = self.architecture().method();
                let falls = method.takes_k() && !method.repeats() && start >= self.coder.k;
                let expected =
                    "at least `coder.k`, of a coder whose active latents `k` counts, or nothing";
                range("coder.k_start", falls, start.to_string(), expected)?;
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
            (None, Some(steps)) => {
                let expected = "nothing, or `coder.k_start` too";
                range(
                    "training.k_anneal_steps",
                    false,
                    steps.to_string(),
                    expected,
                )?;
            }
            (None, None) => {}
        }
        if let Some(d_sae) = self.coder.d_sae {
            positive("coder.d_sae", d_sae as u64)?;
            range(
                "coder.d_sae",
                i32::try_from(d_sae).is_ok(),
                d_sae.to_string(),
                "at most 2147483647",
            )?;
        }
        let real =
            |key: &str, v: f64, ok: bool, expected: &str| range(key, ok, v.to_string(), expected);
        let unit = |v: f64| (0.0..1.0).contains(&v);
        if let Some(e) = self.coder.expansion_factor {
            real("coder.expansion_factor", e, e > 0.0, "more than 0")?;
        }
        if let Some(n) = self.coder.decoder_init_norm {
            match self.starts_at_zero() {
                true => real("coder.decoder_init_norm", n, n >= 0.0, "0 or more")?,
                false => real("coder.decoder_init_norm", n, n > 0.0, "more than 0")?,
            }
        }
        if let Some(m) = self.activations.exclude.norm_multiple {
            let positive = m > 0.0 && m.is_finite();
            let key = "activations.exclude.norm_multiple";
            real(key, m.into(), positive, "more than 0")?;
        }
        if let Some(lr) = t.lr {
            real("training.lr", lr, lr >= 0.0, "0 or more")?;
        }
        real(
            "training.lr_decay_fraction",
            t.lr_decay_fraction,
            (0.0..=1.0).contains(&t.lr_decay_fraction),
            "0 to 1",
        )?;
        real(
            "training.adam_beta1",
            t.adam_beta1,
            unit(t.adam_beta1),
            "0 to below 1",
        )?;
        real(
            "training.adam_beta2",
            t.adam_beta2,
            unit(t.adam_beta2),
            "0 to below 1",
        )?;
        real(
            "training.threshold_decay",
            t.threshold_decay,
            unit(t.threshold_decay),
            "0 to below 1",
        )?;
        real(
            "training.adam_eps",
            t.adam_eps,
            t.adam_eps as f32 > 0.0,
            "more than 0",
        )?;
        real(
            "training.l1_coefficient",
            t.l1_coefficient,
            t.l1_coefficient >= 0.0,
            "0 or more",
        )?;
        real(
            "training.local_coefficient",
            t.local_coefficient,
            t.local_coefficient >= 0.0,
            "0 or more",
        )?;
        real(
            "training.tanh_scale",
            t.tanh_scale,
            t.tanh_scale as f32 > 0.0,
            "more than 0",
        )?;
        real(
            "training.aux_k_coefficient",
            t.aux_k_coefficient,
            t.aux_k_coefficient >= 0.0,
            "0 or more",
        )?;
        real(
            "training.clip_grad_norm",
            t.clip_grad_norm,
            t.clip_grad_norm >= 0.0,
            "0 or more",
        )?;

        let contradiction = |message: String| {
            Err(SaeError::Config {
                place: file.to_owned(),
                message,
            })
        };
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
                "`coder.d_sae` and `coder.expansion_factor` say the same thing twice: keep one"
                    .to_owned(),
            );
        }
        if let Some(d_sae) = self.coder.d_sae {
            self.check_latents(file, d_sae)?;
        }
        if self.coder.multi_topk && self.coder.architecture != "topk" {
            return contradiction(format!(
                "`coder.multi_topk` does not go with `coder.architecture` = \"{}\": it is an option of \"topk\"",
                self.coder.architecture
            ));
        }
        let (named, transcodes) = (self.architecture(), self.transcodes());
        if self.layers().is_some()
            && let Some(message) = cross_layer::contradiction(self, named.method())
        {
            return contradiction(message);
        }
        match (&self.other_model, &self.other_hook_point) {
            (None, Some(_)) => {
                return contradiction("`other_hook_point` needs `other_model`".to_owned());
            }
            (Some(_), _) => {
                let beside = [
                    ("hook_points", !self.hook_points.is_empty()),
                    ("hook_points_out", self.layers().is_some()),
                    ("hook_point_out", self.hook_point_out.is_some()),
                    ("activations.store", self.activations.store.is_some()),
                    ("training.loss", self.learns_end_to_end()),
                    ("evaluation.tokens", self.evaluation.tokens > 0),
                ];
                if let Some((key, _)) = beside.into_iter().find(|(_, there)| *there) {
                    return contradiction(format!(
                        "`{key}` does not go with `other_model`: a crosscoder of two models reads one hook point in each, while both run on the text, and figures of merit are not made for two"
                    ));
                }
            }
            (None, None) => {}
        }
        if let Some(message) = Revival::contradiction(self, named.method()) {
            return contradiction(message);
        }
        if let Some(every) = t.resample_every_steps {
            positive("training.resample_every_steps", every)?;
            if Revival::of(self) != Revival::Resampling {
                return contradiction(
                    "`training.resample_every_steps` needs `training.revival` = \"resampling\""
                        .to_owned(),
                );
            }
        }
        if t.sparsity_penalty != "l1" && named != Architecture::Standard {
            return contradiction(format!(
                "`training.sparsity_penalty` = \"{}\" does not go with `coder.architecture` = \"{named}\": it is an option of \"standard\"",
                t.sparsity_penalty
            ));
        }
        if self.learns_end_to_end() {
            if !named.method().learns_end_to_end() || self.coder.multi_topk {
                return contradiction(format!(
                    "`training.loss` = \"{}\" does not go with `coder.architecture` = \"{named}\"{}: it is for \"topk\", \"batchtopk\", \"standard\" and \"jumprelu\"",
                    t.loss,
                    if self.coder.multi_topk {
                        " and `coder.multi_topk`"
                    } else {
                        ""
                    }
                ));
            }
            if self.activations.store.is_some() {
                return contradiction(format!(
                    "`training.loss` = \"{}\" does not go with `activations.store`: the model must run on the text",
                    t.loss
                ));
            }
            let residual = |hook: &&String| hook.contains("hook_resid");
            let written = self.written_hook_points();
            if written.len() > 1
                && written.iter().any(|h| residual(&h))
                && t.local_coefficient == 0.0
            {
                return contradiction(format!(
                    "`training.loss` = \"{}\" does not go with several hook points of which {} is one: what is put in place there hides what is put in place before, \
                     so part of the coder would learn nothing; give `training.local_coefficient` too",
                    t.loss,
                    written.iter().find(residual).expect("there is one")
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
        let several = match (self.hook_points.is_empty(), transcodes) {
            _ if self.other_model.is_some() => Some("other_model"),
            (true, true) => Some("hook_point_out"),
            (false, _) => Some("hook_points"),
            (true, false) => None,
        };
        if let Some(key) = several.filter(|_| !named.method().has_encoder()) {
            return contradiction(format!(
                "`{key}` does not go with `coder.architecture` = \"{named}\": its codes are those of what it reconstructs"
            ));
        }
        if !self.hook_points.is_empty() {
            let points = &self.hook_points;
            let twice = (1..points.len()).find(|i| points[..*i].contains(&points[*i]));
            if points.len() < 2 || twice.is_some() {
                let found = format!("{points:?}");
                let expected = "two hook points or more, each once";
                return Err(r.wrong("hook_points", found, expected).into());
            }
            let out = self.hook_point_out.is_some();
            if out || self.hook_point != points[0] {
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
                "`coder.skip_connection` needs a `hook_point_out` other than `hook_point`: an autoencoder with one reconstructs everything without latents"
                    .to_owned(),
            );
        }
        let free = t.decoder_norm == "free";
        if free && !frees_decoder_norm(named, transcodes) {
            return contradiction(format!(
                "`training.decoder_norm` = \"free\" does not go with `coder.architecture` = \"{}\": \
                 the k largest activations are comparable only if all decoder rows have one norm",
                self.coder.architecture
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

    pub(super) fn check_latents(&self, place: &str, d_sae: usize) -> Result<(), SaeError> {
        if let Some(message) = self.architecture().method().contradiction(self, d_sae) {
            let place = place.to_owned();
            return Err(SaeError::Config { place, message });
        }
        let method = self.architecture().method();
        let most = self.coder.k.max(self.coder.k_start.unwrap_or(0));
        if method.takes_k() && most > method.most_k(d_sae) {
            let key = if most == self.coder.k { "k" } else { "k_start" };
            let message = match method.repeats() {
                true => format!(
                    "`coder.{key}`: found {most}, expected at most {} steps",
                    method.most_k(d_sae)
                ),
                false => format!(
                    "`coder.{key}` = {most} is more than the number of latents, d_sae = {d_sae}"
                ),
            };
            let place = place.to_owned();
            return Err(SaeError::Config { place, message });
        }
        Ok(())
    }
}
