use super::super::endpoint::EndpointConfig;
use super::super::endpoint::stub::{Action, Seen, Stub};
use super::super::prompts::{
    detection_prompts, estimated_tokens, explanation_prompt, fuzzing_prompts,
};
use super::super::replies::MAX_EXPLANATION;
use super::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Texts of latents 0, 1, … each of which fires on a word of its own.
struct Corpus {
    windows: Vec<Vec<Vec<String>>>, // [latents][windows][window]
    activations: Vec<f32>,          // [window]
}

const ACTIVE: usize = 7;
const SILENT: usize = 6;
/// Explanation, and 13 windows in groups of 5, twice.
const REQUESTS: usize = 1 + 2 * 3;

fn word(latent: usize) -> String {
    format!("word{latent}x")
}

impl Corpus {
    fn new(latents: usize) -> Self {
        let window = |latent: usize, at: usize| {
            let third = match at < ACTIVE {
                true => word(latent),
                false => "nothing".into(),
            };
            vec![format!("text {at} "), "of ".into(), third, " end".into()]
        };
        Corpus {
            windows: (0..latents)
                .map(|latent| (0..ACTIVE + SILENT).map(|at| window(latent, at)).collect())
                .collect(),
            activations: vec![0.0, 0.0, 2.0, 0.0],
        }
    }

    fn tasks(&self) -> Vec<LabelTask<'_>> {
        let tasks = self
            .windows
            .iter()
            .enumerate()
            .map(|(latent, windows)| LabelTask {
                latent,
                contexts: windows[..2]
                    .iter()
                    .map(|pieces| TextContext {
                        pieces,
                        activations: &self.activations,
                    })
                    .collect(),
                windows: windows.clone(),
                fires: (0..windows.len()).map(|at| at < ACTIVE).collect(),
                marks: (0..windows.len())
                    .map(|at| vec![at >= ACTIVE, false, at < ACTIVE, false])
                    .collect(),
            });
        tasks.collect()
    }
}

fn is_explanation(seen: &Seen) -> bool {
    seen.content(0).contains("[EXPLANATION]")
}

fn is_fuzzing(seen: &Seen) -> bool {
    seen.content(0).contains("marked tokens")
}

/// The latent, from the first word of any latent in the question.
fn latent_of(seen: &Seen) -> usize {
    let after = seen.question().split("word").nth(1).unwrap();
    after.split('x').next().unwrap().parse().unwrap()
}

/// The right answer to a request.
fn right(seen: &Seen) -> String {
    let question = seen.question();
    if is_explanation(seen) {
        return format!("I think…\n[EXPLANATION]: {}", word(latent_of(seen)));
    }
    let label = question.lines().next().unwrap();
    let label = label.strip_prefix("Description: ").unwrap();
    let sought = match is_fuzzing(seen) {
        true => format!("<<{label}>>"),
        false => label.to_owned(),
    };
    let examples = question.lines().filter(|line| line.starts_with("Example "));
    let answers: Vec<_> = examples
        .map(|line| u8::from(line.contains(&sought)).to_string())
        .collect();
    format!("[{}]", answers.join(", "))
}

fn oracle(seen: &Seen) -> Action {
    Action::reply(&right(seen))
}

const KEY: &str = "sk-do-not-tell-0123456789";

fn endpoint(stub: &Stub, model: &str) -> Endpoint {
    let config = EndpointConfig {
        timeout: Duration::from_secs(5),
        retries: 1,
        first_wait: Duration::from_millis(1),
        ..EndpointConfig::new(stub.url(), model)
    };
    Endpoint::with_key(config, Some(KEY)).unwrap()
}

/// Runs a job to its end, or until `stop`.
fn run_until(
    stub: &Stub,
    tasks: &[LabelTask<'_>],
    path: &Path,
    parallel: usize,
    stop: &dyn Fn() -> bool,
) -> Result<(Vec<Explained>, Totals), FeaturesError> {
    let mut journal = Journal::open(path)?;
    let config = JobConfig {
        parallel,
        ..JobConfig::default()
    };
    let mut all = vec![];
    let mut report = |labelled| {
        all.push(labelled);
        Ok(())
    };
    let endpoint = endpoint(stub, "judge");
    let totals = explain_latents(&endpoint, tasks, &mut journal, &config, stop, &mut report)?;
    Ok((all, totals))
}

fn run(
    stub: &Stub,
    tasks: &[LabelTask<'_>],
    path: &Path,
    parallel: usize,
) -> (Vec<Explained>, Totals) {
    run_until(stub, tasks, path, parallel, &|| false).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn lines(path: &Path) -> usize {
    std::fs::read(path)
        .unwrap()
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

#[test]
fn an_oracle_scores_1_a_constant_one_half_and_an_inverted_one_0() {
    let corpus = Corpus::new(2);
    let tasks = corpus.tasks();
    let changed = |change: fn(String) -> String, expected: f64| {
        let stub = Stub::new(move |seen| match is_explanation(seen) {
            true => oracle(seen),
            false => Action::reply(&change(right(seen))),
        });
        let dir = folder();
        let (labelled, totals) = run(&stub, &tasks, &dir.path().join("j"), 4);
        assert_eq!(labelled.len(), 2);
        for (latent, labelled) in labelled.iter().enumerate() {
            assert_eq!(labelled.latent, latent);
            assert_eq!(labelled.label.as_deref(), Some(&*word(latent)));
            for confusion in [labelled.detection, labelled.fuzzing] {
                assert_eq!(confusion.balanced_accuracy(), Some(expected));
                assert_eq!(confusion.malformed, 0);
            }
            let usage = Usage {
                requests: REQUESTS as u64,
                prompt_tokens: 10 * REQUESTS as u64,
                completion_tokens: 3 * REQUESTS as u64,
            };
            assert_eq!(labelled.usage, usage);
        }
        assert_eq!((totals.latents, totals.unlabelled), (2, 0));
        assert_eq!(totals.usage.requests, 2 * REQUESTS as u64);
        assert_eq!(totals.sent, totals.usage);
        assert!(!totals.stopped);
        assert_eq!(totals.detection.balanced_accuracy(), Some(expected));
        totals
    };
    let right = changed(|list| list, 1.0);
    assert_eq!(right.fuzzing.true_positives, 2 * ACTIVE as u64);
    assert_eq!(right.fuzzing.true_negatives, 2 * SILENT as u64);
    changed(|list| list.replace('0', "1"), 0.5);
    changed(
        |list| list.replace('1', "x").replace('0', "1").replace('x', "0"),
        0.0,
    );
}

#[test]
fn malformed_replies_are_counted_and_do_not_end_the_job() {
    let corpus = Corpus::new(3);
    let stub = Stub::new(|seen| match (latent_of(seen), is_explanation(seen)) {
        // No explanation for latent 0, and garbage for its neighbour's fuzzing.
        (0, true) => Action::Answer(200, "", "<html>".into()),
        (1, false) if is_fuzzing(seen) => Action::Answer(200, "", "[1, 0".into()),
        (2, false) => Action::reply("I cannot say."),
        _ => oracle(seen),
    });
    let dir = folder();
    let path = dir.path().join("j");
    let (labelled, totals) = run(&stub, &corpus.tasks(), &path, 4);
    let windows = (ACTIVE + SILENT) as u64;
    assert_eq!(labelled[0].label, None);
    assert_eq!(labelled[0].usage.requests, 1);
    assert_eq!(labelled[0].detection, Confusion::default());
    assert_eq!(labelled[1].detection.balanced_accuracy(), Some(1.0));
    assert_eq!(labelled[1].fuzzing.malformed, windows);
    assert_eq!(labelled[2].detection.malformed, windows);
    assert_eq!(totals.unlabelled, 1);
    assert_eq!(totals.detection.malformed, windows);
    // What has a text is final; the answers without one, of latents 0 and 1, are asked for again.
    let before = stub.seen().len();
    let (again, totals) = run(&stub, &corpus.tasks(), &path, 4);
    assert_eq!(again, labelled);
    let asked: Vec<_> = stub.seen()[before..].iter().map(latent_of).collect();
    assert!(
        totals.sent.requests > 0 && asked.iter().all(|latent| *latent < 2),
        "{asked:?}"
    );
}

#[test]
fn latents_come_in_order_and_alike_for_any_number_of_requests_in_flight() {
    let corpus = Corpus::new(9);
    let tasks = corpus.tasks();
    let mut expected = None;
    for parallel in [1, 3, 16] {
        let stub = Stub::new(|seen| {
            // Early latents are slow, so that later ones overtake them.
            let latent = latent_of(seen) as u64;
            thread::sleep(Duration::from_millis(
                10 * 8_u64.saturating_sub(3 * latent) / 3,
            ));
            // A judge that errs, but always in the same way.
            let list = right(seen);
            Action::reply(&match latent {
                4 => list.replace('0', "1"),
                _ => list,
            })
        });
        let dir = folder();
        let found = run(&stub, &tasks, &dir.path().join("j"), parallel);
        let latents: Vec<usize> = found.0.iter().map(|labelled| labelled.latent).collect();
        assert_eq!(latents, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(stub.busiest() <= parallel, "{}", stub.busiest());
        assert!(parallel == 1 || stub.busiest() > 1);
        assert_eq!(&found, expected.get_or_insert(found.clone()));
    }
}

/// Stops a job after some requests, goes on, and compares with one that was not stopped.
fn resumes(parallel: usize, tear: bool) {
    let corpus = Corpus::new(4);
    let tasks = corpus.tasks();
    let dir = folder();
    let whole = dir.path().join("whole");
    let (expected, expected_totals) = run(&Stub::new(oracle), &tasks, &whole, parallel);

    let stub = Stub::new(oracle);
    let path = dir.path().join("part");
    let stop = || stub.seen().len() >= 10;
    let (first, totals) = run_until(&stub, &tasks, &path, parallel, &stop).unwrap();
    assert!(totals.stopped);
    assert_eq!(first[..], expected[..first.len()]);
    assert!(first.len() < expected.len());
    let mut kept = lines(&path);
    assert_eq!(kept as u64, totals.sent.requests);
    assert!((10 - parallel..10 + parallel).contains(&kept), "{kept}");
    if tear {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        kept -= 1;
    }
    let before = stub.seen().len();
    let (second, totals) = run(&stub, &tasks, &path, parallel);
    assert_eq!(second, expected);
    assert_eq!(totals.usage, expected_totals.usage);
    assert_eq!(totals.detection, expected_totals.detection);
    let missing = stub.seen().split_off(before);
    assert_eq!(missing.len(), 4 * REQUESTS - kept);
    assert_eq!(totals.sent.requests as usize, missing.len());
    let asked: BTreeSet<String> = missing.iter().map(|seen| seen.body.to_string()).collect();
    assert_eq!(asked.len(), missing.len(), "a request was made twice");
    assert_eq!(lines(&path), 4 * REQUESTS);
    // And once more: nothing is left to ask.
    let (third, totals) = run(&stub, &tasks, &path, parallel);
    assert_eq!((third, totals.sent), (expected, Usage::default()));
    assert_eq!(stub.seen().len(), before + missing.len());
}

#[test]
fn a_job_that_was_stopped_asks_only_for_what_is_missing() {
    resumes(1, false);
    resumes(4, false);
}

#[test]
fn a_line_that_a_crash_tore_is_asked_for_again() {
    resumes(1, true);
    resumes(4, true);
}

#[test]
fn a_refusal_ends_the_job_and_keeps_what_had_finished() {
    let corpus = Corpus::new(4);
    let tasks = corpus.tasks();
    let dir = folder();
    let path = dir.path().join("j");
    let stub = Stub::new(|seen| match seen.index {
        0..9 => oracle(seen),
        _ => Action::Answer(401, "", "{\"error\": {\"message\": \"expired\"}}".into()),
    });
    let error = run_until(&stub, &tasks, &path, 2, &|| false).unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    // The refusal may break off the other request in flight.
    assert!((8..=9).contains(&lines(&path)));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        !text.contains(env!("CARGO_MANIFEST_DIR")),
        "the key is in it"
    );
}

#[test]
fn an_error_of_the_report_ends_the_job() {
    let corpus = Corpus::new(4);
    let stub = Stub::new(oracle);
    let dir = folder();
    let mut journal = Journal::open(dir.path().join("j")).unwrap();
    let mut times = 0;
    let result = explain_latents(
        &endpoint(&stub, "judge"),
        &corpus.tasks(),
        &mut journal,
        &JobConfig::default(),
        &|| false,
        &mut |labelled| {
            times += 1;
            match labelled.latent {
                1 => Err(FeaturesError::Input {
                    field: "output",
                    found: "a full disk".into(),
                    expected: "space".into(),
                }),
                _ => Ok(()),
            }
        },
    );
    assert!(result.unwrap_err().to_string().contains("full disk"));
    assert_eq!(times, 2);
    assert!(journal.len() >= 2 * REQUESTS);
}

#[test]
fn a_stop_breaks_off_requests_in_flight() {
    let corpus = Corpus::new(4);
    let stub = Stub::new(|_| Action::Silence);
    let dir = folder();
    let start = Instant::now();
    let stop = || start.elapsed() > Duration::from_millis(200);
    let found = run_until(&stub, &corpus.tasks(), &dir.path().join("j"), 3, &stop).unwrap();
    assert!(start.elapsed() < Duration::from_millis(1500));
    assert!(found.0.is_empty() && found.1.stopped);
    assert_eq!(stub.seen().len(), 3);
}

#[test]
fn lines_of_another_job_are_ignored() {
    let corpus = Corpus::new(2);
    let tasks = corpus.tasks();
    let dir = folder();
    let path = dir.path().join("j");
    let stub = Stub::new(oracle);
    let mut journal = Journal::open(&path).unwrap();
    let config = JobConfig::default();
    for (at, model) in ["a", "b", "a"].into_iter().enumerate() {
        let endpoint = endpoint(&stub, model);
        let report = &mut |_| Ok(());
        let stop = || false;
        let totals =
            explain_latents(&endpoint, &tasks, &mut journal, &config, &stop, report).unwrap();
        let sent = [2 * REQUESTS, 2 * REQUESTS, 0][at];
        assert_eq!(totals.sent.requests as usize, sent, "{model}");
        assert_eq!(totals.usage.requests as usize, 2 * REQUESTS);
    }
    assert_eq!(lines(&path), 4 * REQUESTS);
}

#[test]
fn tasks_that_do_not_fit_together_are_refused_before_anything_is_sent() {
    let corpus = Corpus::new(3);
    let stub = Stub::new(oracle);
    for change in [
        (|task| task.fires.truncate(3)) as fn(&mut LabelTask<'_>),
        |task| task.marks.truncate(3),
        |task| task.marks[3].truncate(3),
        |task| task.contexts.clear(),
        |task| task.contexts[0].activations = &[0.0; 4],
    ] {
        let mut tasks = corpus.tasks();
        change(&mut tasks[2]);
        let dir = folder();
        assert!(run_until(&stub, &tasks, &dir.path().join("j"), 4, &|| false).is_err());
        assert!(estimate(&tasks, 500, None).is_err());
    }
    let dir = folder();
    assert!(run_until(&stub, &corpus.tasks(), &dir.path().join("j"), 0, &|| false).is_err());
    assert_eq!(stub.seen(), []);
}

#[test]
fn an_estimate_counts_the_requests_of_the_job_and_the_tokens_of_its_prompts() {
    let corpus = Corpus::new(2);
    let tasks = corpus.tasks();
    let prices = Prices {
        prompt: 2.0,
        completion: 8.0,
    };
    let found = estimate(&tasks, 500, Some(&prices)).unwrap();
    let label = "y".repeat(MAX_EXPLANATION);
    let (mut prompt, mut completion) = (0, 0);
    for task in &tasks {
        prompt += estimated_tokens(&explanation_prompt(&task.contexts).unwrap());
        // 300 characters; then one digit, one comma and one space or bracket per window.
        completion += 75 + 2 * 3 * (ACTIVE + SILENT);
        let fuzzing = fuzzing_prompts(&label, &task.windows, &task.marks, 1).unwrap();
        for batch in detection_prompts(&label, &task.windows, 1)
            .iter()
            .chain(&fuzzing)
        {
            prompt += estimated_tokens(&batch.messages);
        }
    }
    assert_eq!(found.usage.requests as usize, 2 * REQUESTS);
    let differs = (found.usage.prompt_tokens as f64 / prompt as f64 - 1.0).abs();
    // Another order of windows: other windows are together, and roundings differ.
    assert!(differs < 0.01, "{} {prompt}", found.usage.prompt_tokens);
    assert_eq!(found.usage.completion_tokens as usize, completion);
    let cost = 2e-6 * found.usage.prompt_tokens as f64 + 8e-6 * completion as f64;
    assert!((found.cost.unwrap() - cost).abs() < 1e-12);
    assert_eq!(estimate(&tasks, 500, None).unwrap().cost, None);
    let short = estimate(&tasks, 4, None).unwrap().usage;
    assert_eq!(short.completion_tokens as usize, 4 * 2 * REQUESTS);

    let stub = Stub::new(oracle);
    let dir = folder();
    let (_, totals) = run(&stub, &tasks, &dir.path().join("j"), 4);
    assert_eq!(totals.usage.requests, found.usage.requests);
    let wrong = Prices {
        prompt: f64::NAN,
        ..prices
    };
    assert!(estimate(&tasks, 500, Some(&wrong)).is_err());
}
