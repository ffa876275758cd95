//! The answer to each request that the server knows.

use std::io::Read;
use std::sync::{MutexGuard, PoisonError};

use lapidary_features::Steering;
use lapidary_features::serve::{Dead, Order, Query};
use lapidary_model::{Intervention, Sampling};
use serde::Serialize;
use serde_json::json;
use tiny_http::{Method, Request};

use super::requests::{Fields, Problem, needed};
use super::{Served, WithModel, in_words};
use crate::continuation::{Prompt, steer_by};
use crate::error::Result;
use crate::firing::fire_with;

/// Bytes of the largest body that is read.
const MOST_BODY: usize = 64 << 10;

/// Characters of the longest text that latents are shown for.
const MOST_TEXT: usize = 20_000;

/// Characters of the longest search, and of the longest prompt.
const MOST_SEARCH: usize = 1000;

/// Lines of the list in one answer.
const MOST_LINES: u64 = 500;

/// Tokens that are generated at once.
const MOST_TOKENS: u64 = 200;

/// Latents that are shown per token.
const MOST_LATENTS: u64 = 50;

/// A status with a body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
    /// The method that would be right.
    pub(super) allowed: Option<&'static str>,
}

impl Answer {
    fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self {
                status: 200,
                kind: "application/json; charset=utf-8",
                body,
                allowed: None,
            },
            Err(error) => Self::refusal(500, &error.to_string()),
        }
    }

    /// An answer that says what is wrong.
    pub(super) fn refusal(status: u16, problem: &str) -> Self {
        Self {
            status,
            kind: "application/json; charset=utf-8",
            body: json!({ "error": problem }).to_string().into_bytes(),
            allowed: None,
        }
    }

    fn not_found() -> Self {
        Self::refusal(404, "there is nothing here")
    }
}

/// A wrong request is refused with status 400.
fn checked(answer: Result<Answer, Problem>) -> Answer {
    answer.unwrap_or_else(|problem| Answer::refusal(400, &problem))
}

impl Served {
    pub(super) fn answer_to(&self, request: &mut Request) -> Answer {
        let header = |name: &'static str| {
            let headers = request.headers().iter();
            let mut found = headers.filter(move |header| header.field.equiv(name));
            let value = found.next().map(|header| header.value.as_str().to_owned());
            (value, found.next().is_some())
        };
        let (host, again) = header("Host");
        if again || !host.is_some_and(|host| self.origins.is_host(&host)) {
            return Answer::refusal(403, "Host: expected the address that is served");
        }
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let reads = matches!(request.method(), Method::Get | Method::Head);
        let posts = *request.method() == Method::Post;
        let post = match path {
            "/api/fire" | "/api/steer" => true,
            "/" | "/api/dictionary" | "/api/features" => false,
            path if path.starts_with("/api/features/") => false,
            _ => return Answer::not_found(),
        };
        let (is_right, allowed) = match post {
            true => (posts, "POST"),
            false => (reads, "GET, HEAD"),
        };
        if !is_right {
            return Answer {
                allowed: Some(allowed),
                ..Answer::refusal(405, &format!("method: expected {allowed}"))
            };
        }
        if !post {
            return self.read(path, query);
        }
        // Programs other than browsers need not send an origin: no web page can make them ask.
        let (origin, again) = header("Origin");
        if again || origin.is_some_and(|origin| !self.origins.is_origin(&origin)) {
            return Answer::refusal(403, "Origin: expected the address that is served");
        }
        // A page of somebody else cannot send this type without asking first.
        let (kind, _) = header("Content-Type");
        if !kind.is_some_and(|kind| kind.trim().starts_with("application/json")) {
            return Answer::refusal(415, "Content-Type: expected application/json");
        }
        match body(request) {
            Ok(body) => checked(self.compute(path, &body)),
            Err(refusal) => refusal,
        }
    }

    fn read(&self, path: &str, query: &str) -> Answer {
        match path {
            "/" => Answer {
                status: 200,
                kind: "text/html; charset=utf-8",
                body: self.page.html.clone().into_bytes(),
                allowed: None,
            },
            "/api/dictionary" => self.dictionary(),
            "/api/features" => checked(self.features(query)),
            _ => match path.strip_prefix("/api/features/").map(str::parse::<u32>) {
                Some(Ok(latent)) => self.feature(latent),
                _ => Answer::not_found(),
            },
        }
    }

    fn dictionary(&self) -> Answer {
        let index = &self.index;
        let places = index.hook_points();
        let place = match places[..] {
            [place] => place.to_owned(),
            ref several => format!("{} hook points", several.len()),
        };
        Answer::json(&json!({
            "title": index.source().title(&place),
            "provenance": &index.source().provenance,
            "metrics": self.metrics,
            "latents": index.len(),
            "dead": index.dead(),
            "labelled": index.labelled(),
            "density": index.density_bins(),
            "contexts_missing": index.contexts_missing(),
            "model_missing": self.model.as_ref().err(),
        }))
    }

    /// `/api/features`: a part of the list.
    fn features(&self, query: &str) -> Result<Answer, Problem> {
        let mut fields = Fields::of_query(query)?;
        let [from, to] = ["density_from", "density_to"].map(|name| fields.number(name));
        let density = match (from?, to?) {
            (None, None) => None,
            (from, to) => Some([from.unwrap_or(0.0), to.unwrap_or(1.0)]),
        };
        let query = Query {
            text: fields.text("search", MOST_SEARCH)?.unwrap_or_default(),
            order: fields.choice("sort", &Order::ALL)?,
            dead: fields.choice("dead", &Dead::ALL)?,
            density,
        };
        let offset = fields.whole("offset", u64::from(u32::MAX))?.unwrap_or(0) as usize;
        let limit = fields.whole("limit", MOST_LINES)?.unwrap_or(100) as usize;
        let locate = fields.whole("locate", u64::from(u32::MAX))?;
        fields.end()?;
        let index = &self.index;
        let found = index.search(&query);
        let shown = found.iter().skip(offset).take(limit);
        let lines: Vec<_> = shown.map(|found| index.summary(found)).collect();
        let located = locate.and_then(|latent| {
            let latent = latent as u32;
            found.iter().position(|found| index.id(found) == latent)
        });
        Ok(Answer::json(&json!({
            "total": found.len(),
            "offset": offset,
            "features": lines,
            "located": located,
            "contexts_missing": index.contexts_missing(),
        })))
    }

    /// `/api/features/ID`: one latent.
    fn feature(&self, latent: u32) -> Answer {
        match self.index.detail(latent) {
            Ok(Some(detail)) => Answer::json(&detail),
            Ok(None) => Answer::refusal(404, &format!("there is no latent {latent}")),
            Err(error) => Answer::refusal(500, &error.to_string()),
        }
    }

    /// What the model computes.
    fn compute(&self, path: &str, body: &[u8]) -> Result<Answer, Problem> {
        let fields = Fields::of_json(body)?;
        let answer = match path {
            "/api/fire" => {
                let asked = Fire::new(fields)?;
                self.model().map(|model| self.fire(&model, &asked))
            }
            _ => {
                let asked = Steer::new(fields)?;
                if self.index.row(asked.latent).is_none() {
                    return Err(format!("latent: there is no latent {}", asked.latent));
                }
                self.model().map(|model| self.steer(&model, &asked))
            }
        };
        Ok(match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::refusal(422, &in_words(&error)),
            Err(refusal) => refusal,
        })
    }

    /// The model, for this request alone.
    fn model(&self) -> Result<MutexGuard<'_, WithModel>, Answer> {
        match &self.model {
            Ok(model) => Ok(model.lock().unwrap_or_else(PoisonError::into_inner)),
            Err(problem) => Err(Answer::refusal(503, problem)),
        }
    }

    /// `/api/fire`: which latents fire where in a text. `share` is the activation over the highest
    /// one in the tables.
    fn fire(&self, model: &WithModel, asked: &Fire) -> Result<Answer> {
        let WithModel { opened, second } = model;
        let only = (asked.top, &[][..]);
        let tokens = fire_with(opened, second.as_ref(), &asked.text, only, &|_| None)?;
        let tokens = tokens.iter().map(|token| {
            let latents = token.latents.iter().map(|firing| {
                let row = self.index.row(firing.feature_id);
                let highest = row.map_or(0.0, |row| row.max_activation);
                let about = self.index.about(firing.feature_id);
                json!({
                    "id": firing.feature_id,
                    "activation": firing.activation,
                    "share": (highest > 0.0).then(|| firing.activation / highest),
                    "label": about.label,
                    "peak": about.peak,
                })
            });
            let latents: Vec<_> = latents.collect();
            json!({ "token": token.token, "latents": latents })
        });
        let tokens: Vec<_> = tokens.collect();
        Ok(Answer::json(&json!({ "tokens": tokens })))
    }

    /// `/api/steer`: a text continued with and without a latent.
    fn steer(&self, model: &WithModel, asked: &Steer) -> Result<Answer> {
        let opened = &model.opened;
        let highest = self.index.row(asked.latent).map(|row| row.max_activation);
        let steer = steer_by(asked.strength, highest);
        let steering = Steering::new(&opened.dictionary, asked.latent as usize, steer)?;
        let prompt = Prompt::new(&opened.model, &asked.prompt)?;
        let continued = |steering: &[Intervention<'_>]| -> Result<String> {
            let mut text = String::new();
            prompt.continued(&opened.model, &asked.sampling, steering, &mut |new| {
                text.push_str(new);
            })?;
            Ok(text)
        };
        let with = continued(&[steering.intervention()])?;
        Ok(Answer::json(&json!({
            "prompt": asked.prompt,
            "steered": with,
            "plain": continued(&[])?,
            "highest": highest.filter(|highest| *highest > 0.0),
        })))
    }
}

/// The body of a request, or why it is not read.
fn body(request: &mut Request) -> Result<Vec<u8>, Answer> {
    let refusal = || {
        let problem = format!("body: expected at most {MOST_BODY} bytes");
        Answer::refusal(413, &problem)
    };
    if request
        .body_length()
        .is_some_and(|length| length > MOST_BODY)
    {
        return Err(refusal());
    }
    let mut body = vec![];
    let limited = &mut request.as_reader().take(MOST_BODY as u64 + 1);
    match limited.read_to_end(&mut body) {
        Ok(_) if body.len() > MOST_BODY => Err(refusal()),
        Ok(_) => Ok(body),
        Err(error) => Err(Answer::refusal(400, &format!("body: {error}"))),
    }
}

/// What `/api/fire` is asked.
struct Fire {
    text: String,
    top: usize,
}

impl Fire {
    fn new(mut fields: Fields) -> Result<Self, Problem> {
        let text = needed("text", fields.text("text", MOST_TEXT)?)?;
        let top = fields.whole("top", MOST_LATENTS)?.unwrap_or(8) as usize;
        fields.end()?;
        Ok(Self { text, top })
    }
}

/// What `/api/steer` is asked.
struct Steer {
    latent: u32,
    strength: f32,
    prompt: String,
    sampling: Sampling,
}

impl Steer {
    fn new(mut fields: Fields) -> Result<Self, Problem> {
        let latent = needed("latent", fields.whole("latent", u64::from(u32::MAX))?)? as u32;
        let strength = needed("strength", fields.number("strength")?)? as f32;
        if strength.abs() > 1000.0 {
            return Err(format!(
                "strength: found {strength}, expected -1000 to 1000"
            ));
        }
        let prompt = needed("prompt", fields.text("prompt", MOST_SEARCH)?)?;
        let sampling = Sampling {
            max_tokens: fields.whole("tokens", MOST_TOKENS)?.unwrap_or(40) as usize,
            seed: fields.whole("seed", u64::from(u32::MAX))?.unwrap_or(0),
            ..Sampling::default()
        };
        fields.end()?;
        if prompt.is_empty() {
            return Err("prompt: found no text, expected some".into());
        }
        Ok(Self {
            latent,
            strength,
            prompt,
            sampling,
        })
    }
}
