//! A ranked search over the latents: by label, tokens and the texts of contexts.

use std::cmp::Ordering;
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;

use super::index::FeatureIndex;
use super::query::{Dead, Found, Match, Order, Query};
use crate::tables::FeatureRow;

/// Rankings that are kept, so that the next rows of a list need no new search.
const RANKINGS: usize = 8;

/// What a term is in each token text.
#[derive(Clone, Copy, PartialEq)]
enum InWord {
    No,
    Part,
    Exact,
}

/// A term with where it is in the token texts.
struct Term {
    text: String,
    words: Vec<InWord>,
}

impl FeatureIndex {
    /// The latents that a query finds, in its order.
    pub fn search(&self, query: &Query) -> Arc<[Found]> {
        let rankings = || self.rankings.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            |(other, found): &(Query, Arc<[Found]>)| (other == query).then(|| Arc::clone(found));
        if let Some(found) = rankings().iter().find_map(known) {
            return found;
        }
        // What is found before the contexts are read may lack some, so it is not kept.
        let complete = self.contexts.get().is_some();
        let found: Arc<[Found]> = query.find(self).into();
        if complete {
            let mut rankings = rankings();
            if rankings.len() == RANKINGS {
                rankings.remove(0);
            }
            rankings.push((query.clone(), Arc::clone(&found)));
        }
        found
    }
}

impl Query {
    /// The latents that it finds, in its order.
    fn find(&self, index: &FeatureIndex) -> Vec<Found> {
        let terms: Vec<Term> = terms(&self.text)
            .into_iter()
            .map(|text| Term::new(text, &index.words.texts))
            .collect();
        let number = self.text.trim().trim_start_matches('#').parse().ok();
        let all = 0..index.rows.len() as u32;
        let found = all.into_par_iter().filter_map(|place| {
            let row = &index.rows[place as usize];
            if number == Some(row.feature_id) {
                let how = Some(Match::Number);
                return Some(Found {
                    place,
                    how,
                    mass: 0.0,
                });
            }
            if !self.admits(row) {
                return None;
            }
            let mut found = Found {
                place,
                how: None,
                mass: 0.0,
            };
            for term in &terms {
                let (how, mass) = term.in_latent(index, place)?;
                found.how = found.how.max(Some(how));
                found.mass += mass;
            }
            Some(found)
        });
        let mut found: Vec<Found> = found.collect();
        found.par_sort_by(|a, b| self.compare(index, a, b));
        found
    }

    fn admits(&self, row: &FeatureRow) -> bool {
        let by_dead = match self.dead {
            Dead::Show => true,
            Dead::Hide => !row.dead,
            Dead::Only => row.dead,
        };
        let in_range = |[from, to]: [f64; 2]| {
            row.firing_density >= from && (row.firing_density < to || to >= 1.0)
        };
        by_dead && self.density.is_none_or(in_range)
    }

    fn compare(&self, index: &FeatureIndex, a: &Found, b: &Found) -> Ordering {
        let [x, y] = [a, b].map(|found| &index.rows[found.place as usize]);
        // A latent that was asked for by its number is always first.
        let asked = |found: &Found| found.how == Some(Match::Number);
        let score = |row: &FeatureRow| {
            let label = index.label(row.feature_id);
            label.map_or(-2.0, |label| label.detection.unwrap_or(-1.0))
        };
        let logit = |row: &FeatureRow| row.promoted.first().map_or(f32::MIN, |top| top.logit);
        let order = match self.order {
            Order::Relevance => a.how.cmp(&b.how).then(b.mass.total_cmp(&a.mass)),
            Order::Id => Ordering::Equal,
            Order::Density => y.firing_density.total_cmp(&x.firing_density),
            Order::Rarest => x.firing_density.total_cmp(&y.firing_density),
            Order::MaxActivation => y.max_activation.total_cmp(&x.max_activation),
            Order::LabelScore => score(y).total_cmp(&score(x)),
            Order::Logit => logit(y).total_cmp(&logit(x)),
        };
        asked(b)
            .cmp(&asked(a))
            .then(order)
            .then(x.feature_id.cmp(&y.feature_id))
    }
}

impl Term {
    fn new(text: String, words: &[String]) -> Self {
        let in_word = |word: &String| {
            if *word == text {
                InWord::Exact
            } else if word.contains(&text) {
                InWord::Part
            } else {
                InWord::No
            }
        };
        Term {
            words: words.iter().map(in_word).collect(),
            text,
        }
    }

    /// How well the latent at this place has the term, and the mass of that.
    fn in_latent(&self, index: &FeatureIndex, place: u32) -> Option<(Match, f32)> {
        let at = place as usize;
        let mut masses = [None; 2]; // of exact matches, and of parts
        let mut add = |kind: InWord, mass: f32| {
            let slot = match kind {
                InWord::No => return,
                InWord::Exact => &mut masses[0],
                InWord::Part => &mut masses[1],
            };
            *slot = Some(slot.unwrap_or(0.0) + mass);
        };
        for (word, mass) in &index.words.firing[at] {
            add(self.words[*word as usize], *mass);
        }
        for word in &index.words.named[at] {
            add(self.words[*word as usize], 0.0);
        }
        let row = &index.rows[at];
        for label in index.labels.get(&row.feature_id).into_iter().flatten() {
            let mass = row.firing_count as f32 * row.mean_activation;
            add(self.in_label(&label.label), mass);
        }
        let [exact, part] = masses;
        let exact = exact.map(|mass| (Match::Exact, mass));
        exact.or(part.map(|mass| (Match::Part, mass))).or_else(|| {
            let contexts = index.contexts.get()?.as_ref().ok()?;
            let count = contexts.count(place, &self.text);
            (count > 0).then_some((Match::Context, count as f32))
        })
    }

    fn in_label(&self, label: &str) -> InWord {
        let label = label.to_lowercase();
        let is_term = |word: &str| word == self.text;
        let mut words = label.split(|c: char| !c.is_alphanumeric());
        if is_term(label.trim()) || words.any(is_term) {
            InWord::Exact
        } else if label.contains(&self.text) {
            InWord::Part
        } else {
            InWord::No
        }
    }
}

/// The terms of a text, in lower case.
fn terms(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let mut terms: Vec<String> = vec![];
    // Every second part is in quotation marks.
    for (part, quoted) in text.split('"').zip([false, true].into_iter().cycle()) {
        match quoted {
            true => terms.push(part.to_owned()),
            false => terms.extend(part.split_whitespace().map(str::to_owned)),
        }
    }
    terms.retain(|term| !term.trim().is_empty());
    terms
}

#[cfg(test)]
mod tests {
    use super::terms;

    #[test]
    fn texts_in_quotation_marks_are_one_term() {
        let found = terms(" The  \"White House\" war");
        assert_eq!(found, ["the", "white house", "war"]);
        assert_eq!(terms("\"open end"), ["open end"]);
        assert_eq!(terms(" \"\" "), Vec::<String>::new());
    }
}
