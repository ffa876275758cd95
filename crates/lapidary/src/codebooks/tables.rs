//! Feature tables and a report of the codes of a run.

use super::{CodebookRun, RunText};
use crate::error::{Context, Result};
use crate::progress::{Progress, Stage};
use crate::run_folder::{RunFolder, read_json};
use burn::tensor::Tensor;
use lapidary_codebook::{CodebookStep, Metrics, Observed, Placed};
use lapidary_features::{
    BlockView, CodePlace, Curve, DecoderSummary, ExampleRow, FeatureRow, FeatureStatistics,
    LogitEffect, Report, StatisticsConfig, TableSource, example_rows, feature_rows, logit_effects,
    write_examples, write_features, write_report,
};
use lapidary_model::{BlockHook, HookPoint, LanguageModel};

/// The activation of a chosen code that has an angle of 90 degrees or more to the activation: what
/// is chosen counts as firing.
const LEAST: f32 = 1e-6;

/// Writes `features/` and `report.html` of a run's codes over a text. A code fires where it is
/// chosen; its activation is its cosine to the activation that it stands for.
///
/// # Errors
/// The model fails, or a file cannot be written.
pub fn write_code_tables(
    run: &CodebookRun,
    text: &RunText,
    examples_per_code: usize,
    folder: &RunFolder,
    progress: &dyn Progress,
) -> Result<()> {
    let metrics = metrics(run)?;
    let stage = Stage::new(progress, "features", text.blocks.len() as u64);
    let config = |placed: &Placed| StatisticsConfig {
        examples_per_feature: examples_per_code,
        partners: 0, // k codes of one codebook fire on every token
        ..StatisticsConfig::new(placed.codebook.groups() * placed.codebook.options().n_codes)
    };
    let placed = run.codebooks.placed();
    let top = StatisticsConfig::new(0).top_tokens;
    let mut statistics: Vec<FeatureStatistics> = placed
        .iter()
        .map(|p| FeatureStatistics::new(config(p)))
        .collect();
    let mut done = 0;
    for blocks in text.passes() {
        let observed = RunText::observe(run, blocks)?;
        for (number, statistics) in statistics.iter_mut().enumerate() {
            let codes = side_by_side(&observed, number, placed[number].codebook.options().n_codes);
            for (i, block) in blocks.iter().enumerate() {
                let (document, position): (Vec<u32>, Vec<u32>) = block.places().into_iter().unzip();
                let active: Vec<bool> = block.tokens.iter().map(|t| text.counts(run, *t)).collect();
                let view = BlockView {
                    tokens: &block.tokens,
                    document: &document,
                    position: &position,
                    block_index: (done + i) as u64,
                    active: &active,
                };
                let range =
                    i * block.tokens.len() * codes.k..(i + 1) * block.tokens.len() * codes.k;
                let (values, indices) = (&codes.cosines[range.clone()], &codes.codes[range]);
                statistics.observe_block(view, values, indices, codes.k)?;
            }
        }
        done += blocks.len();
        stage.at(done as u64, format!("{done} blocks"));
    }
    let mut tokens = 0;
    let (mut features, mut examples): (Vec<FeatureRow>, Vec<ExampleRow>) = (vec![], vec![]);
    for (placed, statistics) in placed.iter().zip(statistics) {
        let summary = statistics.finish();
        tokens = summary.tokens;
        let decoder = code_directions(&run.model, placed, top);
        let first = features.len() as u32;
        let token_text = |token| run.token_text(token).unwrap_or_default();
        let rows = feature_rows(&summary, &decoder, &[placed.at.to_string()], &token_text)?;
        let texts = |tokens: &[u32]| run.texts(tokens).unwrap_or_default();
        examples.extend(
            example_rows(&summary, &texts)
                .into_iter()
                .map(|row| ExampleRow {
                    feature_id: first + row.feature_id,
                    ..row
                }),
        );
        let n_codes = placed.codebook.options().n_codes as u32;
        features.extend(rows.into_iter().map(|row| FeatureRow {
            feature_id: first + row.feature_id,
            code: Some(CodePlace {
                layer: placed.at.layer().unwrap_or(0) as u32,
                head: row.feature_id / n_codes,
                code: row.feature_id % n_codes,
            }),
            ..row
        }));
    }
    let tables = folder.features();
    std::fs::create_dir_all(&tables)
        .with_context(|| format!("{}: cannot be made", tables.display()))?;
    let source = TableSource {
        provenance: provenance(run, tokens),
    };
    write_features(&tables.join("features.parquet"), &features, &source)?;
    write_examples(&tables.join("examples.parquet"), &examples, &source)?;
    let report = Report {
        title: format!("{} · codes", run.model.name()),
        provenance: source.provenance,
        metrics,
        curves: curves(run),
        features: &features,
        examples: &examples,
        ..Report::default()
    };
    write_report(&folder.report(), &report)?;
    let dead = features.iter().filter(|row| row.dead).count();
    stage.done(format!(
        "{} codes ({dead} never chosen), {} contexts from {tokens} tokens",
        features.len(),
        examples.len(),
    ));
    Ok(())
}

/// The codes of all groups of one codebook, `[n, groups * k]`, numbered over the groups.
fn side_by_side(observed: &[Observed], codebook: usize, n_codes: usize) -> Observed {
    let groups: Vec<&Observed> = observed.iter().filter(|o| o.codebook == codebook).collect();
    let k = groups.first().map_or(1, |o| o.k);
    let rows = groups.first().map_or(0, |o| o.codes.len() / k);
    let mut all = Observed {
        codebook,
        group: 0,
        codes: vec![],
        cosines: vec![],
        k: groups.len() * k,
    };
    for row in 0..rows {
        for group in &groups {
            let first = (group.group * n_codes) as i32;
            let range = row * k..(row + 1) * k;
            all.codes
                .extend(group.codes[range.clone()].iter().map(|code| first + code));
            all.cosines
                .extend(group.cosines[range].iter().map(|cosine| cosine.max(LEAST)));
        }
    }
    all
}

/// What a codebook's codes write to the residual stream: the codes themselves, or the codes of a
/// head through its `W_O`.
fn code_directions(model: &LanguageModel, placed: &Placed, top: usize) -> DecoderSummary {
    let codes = placed.codebook.codes();
    let n = codes.dims()[0];
    let norms = codes.clone().square().sum_dim(1).sqrt().into_data();
    let directions = match placed.at {
        HookPoint::Block(layer, BlockHook::Z) => {
            let n_codes = placed.codebook.options().n_codes;
            let head = |head| {
                let own = codes.clone().narrow(0, head * n_codes, n_codes);
                own.matmul(model.w_o(layer, head))
            };
            Tensor::cat((0..placed.codebook.groups()).map(head).collect(), 0)
        }
        _ => codes.clone(),
    };
    let effects = logit_effects(model, directions, top, &|_| true);
    let logit_kurtosis = effects.iter().map(|e| Some(e.kurtosis)).collect();
    let (promoted, suppressed) = effects.into_iter().map(LogitEffect::into_tokens).unzip();
    DecoderSummary {
        decoder_norm: norms.iter::<f32>().collect(),
        relative_decoder_norms: vec![vec![1.0]; n],
        encoder_decoder_cosine: None,
        logit_kurtosis,
        nearest: vec![vec![]; n],
        promoted,
        suppressed,
    }
}

fn provenance(run: &CodebookRun, tokens: u64) -> Vec<(String, String)> {
    let (c, options) = (&run.config, &run.config.codebook);
    let places = run.codebooks.placed().iter().map(|p| p.at.to_string());
    let row = |name: &str, value: String| (name.to_owned(), value);
    vec![
        row("Model", run.model.name().to_owned()),
        row("Codebooks", places.collect::<Vec<_>>().join(", ")),
        row(
            "Codes",
            format!("{} per head or hook point", options.n_codes),
        ),
        row("k", options.k.to_string()),
        row("Steps", c.steps.to_string()),
        row("Seed", c.seed.to_string()),
        row("Statistics", format!("{tokens} tokens")),
        row("Made by", format!("lapidary {}", env!("CARGO_PKG_VERSION"))),
    ]
}

/// The metrics of the run, each with its value and what it means.
fn metrics(run: &CodebookRun) -> Result<Vec<(String, f64, String)>> {
    let m: Metrics = read_json(&run.folder.join("metrics.json"))?;
    let all = [
        ("loss", Some(m.loss), "nats per token"),
        ("accuracy", Some(m.accuracy), "of the next token"),
        (
            "transition_accuracy",
            m.transition_accuracy,
            "legal transitions",
        ),
        ("frac_dead_codes", m.frac_dead_codes, "codes never chosen"),
        ("code_perplexity", m.code_perplexity, "codes in use"),
    ];
    let row = |(name, value, meaning): (&str, Option<f64>, &str)| {
        Some((name.to_owned(), value?, meaning.to_owned()))
    };
    Ok(all.into_iter().filter_map(row).collect())
}

fn curves(run: &CodebookRun) -> Vec<Curve> {
    let text = std::fs::read_to_string(run.folder.join("metrics.jsonl")).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str::<CodebookStep>);
    let log: Vec<CodebookStep> = lines.map_while(Result::ok).collect();
    if log.is_empty() {
        return vec![];
    }
    let curve = |name: &str, value: fn(&CodebookStep) -> f64| Curve {
        name: name.into(),
        steps: log.iter().map(|step| step.step).collect(),
        values: log.iter().map(value).collect(),
    };
    vec![
        curve("loss", |step| step.loss),
        curve("unused codes", |step| {
            step.frac_unused_codes.unwrap_or(f64::NAN)
        }),
        curve("learning rate", |step| f64::from(step.lr)),
    ]
}
