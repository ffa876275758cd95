//! Class-incremental runs on blobs and on texts with labels.

use crate::dictionary_model::load_model;
use crate::error::{Result, bail};
use crate::labelled::{LabelledTexts, Passage};
use crate::progress::{Progress, Stage};
use burn::tensor::Device;
use lapidary_codebook::{ClassData, ClassIncremental, ClassRows, Incremental};
use lapidary_model::{HookPoint, HookedRun, LanguageModel};

/// Passages of one pass.
const PASSAGES_AT_ONCE: usize = 16;
/// Unlabelled passages, at most.
const UNLABELLED: usize = 4000;
/// Below this, a dimension does not vary.
const SMALLEST_DEVIATION: f64 = 1e-6;

/// Runs a class-incremental comparison of a key-value bottleneck and a linear probe.
///
/// # Errors
/// The texts or the model cannot be read, or there are too few classes or inputs.
pub fn run_class_incremental(
    config: &ClassIncremental,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Incremental> {
    let rows = match config.blobs() {
        Some(rows) => rows,
        None => embedded_texts(config, device, progress)?,
    };
    let splits = config.bottleneck.classes.div_ceil(config.classes_per_split);
    let stage = Stage::new(progress, "learn", splits as u64);
    let found = config.run(&rows, device, &mut |done| {
        stage.at(done as u64, format!("{done} splits"));
    })?;
    stage.done(format!(
        "bottleneck {:.3}, linear probe {:.3}",
        found.accuracy_dkvb, found.accuracy_probe
    ));
    Ok(found)
}

/// Passages of texts as mean activations. Each dimension is shifted and scaled so that it has mean
/// 0 and variance 1 over the unlabelled passages, those of other classes; if there are none, these
/// are the training passages.
fn embedded_texts(
    config: &ClassIncremental,
    device: &Device,
    progress: &dyn Progress,
) -> Result<ClassRows> {
    let ClassData::Text {
        corpus,
        text_field,
        label_field,
        model,
        hook_point,
        context,
        passages,
        per_class,
        test_share,
    } = &config.data
    else {
        unreachable!("blobs are drawn");
    };
    let classes = config.bottleneck.classes;
    let model = load_model(progress, model, device)?;
    let texts = LabelledTexts {
        source: corpus.clone(),
        text_field: text_field.clone(),
        label_field: label_field.clone(),
        classes,
        passages: *passages,
        samples: *per_class,
        test_share: *test_share,
        seed: config.seed,
    };
    let (bos, n_ctx) = (model.config().bos, model.config().n_ctx);
    if *context > n_ctx {
        bail!(
            "`data.context`: found {context}, expected at most {n_ctx}, the context of model `{}`",
            model.name()
        );
    }
    let read = texts.read(&model, (*context, bos), UNLABELLED, progress)?;
    if read.classes.len() < classes {
        bail!(
            "{corpus}: `{label_field}`: found {} classes, expected {classes}, as `data.classes` says",
            read.classes.len()
        );
    }
    let all = read.train.len() + read.test.len() + read.others.len();
    let stage = Stage::new(progress, "represent", all as u64);
    let d_in = model.width(*hook_point)?;
    let mut done = 0;
    let mut of = |passages: Vec<&[u32]>| {
        means(&model, *hook_point, &passages, &mut |n| {
            done += n as u64;
            stage.at(done, format!("{done} of {all} passages"));
        })
    };
    let mut each = |part: &[Passage]| -> Result<Vec<Vec<f32>>> {
        let of_class = |class| {
            let own = part.iter().filter(move |(_, own)| *own == class);
            of(own.map(|(tokens, _)| &tokens[..]).collect())
        };
        (0..read.classes.len()).map(of_class).collect()
    };
    let train = each(&read.train)?;
    let test = each(&read.test)?;
    let mut unlabelled = of(read.others.iter().map(|tokens| &tokens[..]).collect())?;
    stage.done(format!(
        "{} passages of {} classes, {} without a class",
        read.train.len() + read.test.len(),
        read.classes.len(),
        read.others.len()
    ));
    if unlabelled.is_empty() {
        unlabelled = train.concat();
    }
    let mut rows = ClassRows {
        d_in,
        train,
        test,
        unlabelled,
    };
    standardize(&mut rows);
    Ok(rows)
}

/// The mean activation of each passage over all tokens but special ones, side by side. `on_pass`
/// hears the number of passages of each forward pass.
fn means(
    model: &LanguageModel,
    hook: HookPoint,
    passages: &[&[u32]],
    on_pass: &mut dyn FnMut(usize),
) -> Result<Vec<f32>> {
    // Passages of one length share a pass; the order is kept.
    let mut out: Vec<Vec<f32>> = vec![vec![]; passages.len()];
    let mut order: Vec<usize> = (0..passages.len()).collect();
    order.sort_by_key(|i| passages[*i].len());
    for same in order.chunk_by(|a, b| passages[*a].len() == passages[*b].len()) {
        for some in same.chunks(PASSAGES_AT_ONCE) {
            let tokens: Vec<&[u32]> = some.iter().map(|i| passages[*i]).collect();
            let run = HookedRun {
                capture: &[hook],
                ..Default::default()
            };
            let captured = model.run(model.tokens(&tokens)?, &run)?.captured;
            let value = captured.get(&hook).expect("it was asked for").clone();
            let [_, pos, width] = value.dims();
            let values: Vec<f32> = value.into_data().iter::<f32>().collect();
            for (i, rows) in some.iter().zip(values.chunks(pos * width)) {
                let mut sum = vec![0.0f64; width];
                let mut count = 0u32;
                for (token, row) in passages[*i].iter().zip(rows.chunks(width)) {
                    if !model.is_special(*token) {
                        sum.iter_mut()
                            .zip(row)
                            .for_each(|(s, v)| *s += f64::from(*v));
                        count += 1;
                    }
                }
                let n = f64::from(count.max(1));
                out[*i] = sum.iter().map(|s| (s / n) as f32).collect();
            }
            on_pass(some.len());
        }
    }
    Ok(out.concat())
}

/// Shifts and scales each dimension by its mean and deviation over the unlabelled inputs.
fn standardize(rows: &mut ClassRows) {
    let d = rows.d_in;
    let n = (rows.unlabelled.len() / d).max(1) as f64;
    let (mut mean, mut square) = (vec![0.0f64; d], vec![0.0f64; d]);
    for row in rows.unlabelled.chunks(d) {
        for (column, value) in row.iter().enumerate() {
            mean[column] += f64::from(*value) / n;
            square[column] += f64::from(*value).powi(2) / n;
        }
    }
    let deviation = |column: usize| (square[column] - mean[column].powi(2)).max(0.0).sqrt();
    let scale: Vec<f64> = (0..d)
        .map(|column| 1.0 / deviation(column).max(SMALLEST_DEVIATION))
        .collect();
    let all = rows.train.iter_mut().chain(&mut rows.test);
    for part in all.chain([&mut rows.unlabelled]) {
        for (i, value) in part.iter_mut().enumerate() {
            let column = i % d;
            *value = ((f64::from(*value) - mean[column]) * scale[column]) as f32;
        }
    }
}
