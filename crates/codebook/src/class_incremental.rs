//! Classes learned a few at a time, without a signal and without replay, by a key-value bottleneck
//! and by a linear probe.

use crate::CodebookError;
use crate::data::{generator, stream};
use crate::init::normal;
use crate::key_value::{KeyValueBottleneck, KeyValueOptions, cross_entropy_gradient};
use crate::memory::{product, too_large};
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_io::settings::Reader;
use lapidary_model::HookPoint;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Passes of the keys over the unlabelled inputs.
const KEY_PASSES: usize = 5;
/// Unlabelled inputs of a step.
const KEY_BATCH: usize = 100;

/// What the classes are.
#[derive(Debug, Clone, PartialEq)]
pub enum ClassData {
    /// A normal blob for each class.
    Blobs {
        /// Width of an input.
        d_in: usize,
        /// Distance of each class's centre from the origin.
        radius: f64,
        /// Standard deviation of a class around its centre, per dimension.
        noise: f64,
        /// Training inputs of a class; there are half as many test inputs and unlabelled inputs.
        per_class: usize,
    },
    /// Passages of texts with labels, as the mean of a model's activations.
    Text {
        /// Texts with labels: a file, a folder, a data set of the hub, or `embedded`.
        corpus: String,
        /// The field or column that holds the text.
        text_field: String,
        /// The field or column that holds the class.
        label_field: String,
        /// The model.
        model: String,
        /// The hook point whose activations are averaged.
        hook_point: HookPoint,
        /// Tokens of a passage, BOS included.
        context: usize,
        /// Maximum number of passages of a text.
        passages: usize,
        /// Maximum number of training passages of a class.
        per_class: usize,
        /// Share of each class's texts that are for testing.
        test_share: f64,
    },
}

/// Inputs of a class-incremental run, rows of `d_in` numbers side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassRows {
    /// Width of an input.
    pub d_in: usize,
    /// Training inputs of each class.
    pub train: Vec<Vec<f32>>,
    /// Test inputs of each class.
    pub test: Vec<Vec<f32>>,
    /// Inputs without labels, which the keys follow.
    pub unlabelled: Vec<f32>,
}

/// A class-incremental run.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassIncremental {
    /// Seeds everything.
    pub seed: u64,
    /// What the classes are.
    pub data: ClassData,
    /// The bottleneck.
    pub bottleneck: KeyValueOptions,
    /// Classes of a split.
    pub classes_per_split: usize,
    /// Passes over a split.
    pub epochs: usize,
    /// Inputs of a step.
    pub batch: usize,
    /// Learning rate of the linear probe.
    pub probe_lr: f64,
}

impl ClassIncremental {
    /// Reads a config; each of `set` is `key=value` and wins over the file.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, has an unknown key or a value that cannot be.
    pub fn load(path: &Path, set: &[String]) -> Result<Self, CodebookError> {
        let text = lapidary_io::read_text(path)?;
        Self::parse(&path.display().to_string(), &text, set)
    }

    /// The same for a text, named `file` in errors.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(file: &str, text: &str, set: &[String]) -> Result<Self, CodebookError> {
        let mut r = Reader::new(file, text, set)?;
        let d = KeyValueOptions::default();
        let seed = r.or("seed", 0)?;
        let kind = r.one_of("data.kind", &["blobs", "text"], "blobs")?;
        let data = match kind.as_str() {
            "blobs" => ClassData::Blobs {
                d_in: r.or("data.d_in", 64)?,
                radius: r.or("data.radius", 2.0)?,
                noise: r.or("data.noise", 0.5)?,
                per_class: r.or("data.per_class", 200)?,
            },
            _ => ClassData::Text {
                corpus: r.or("data.corpus", "embedded".to_owned())?,
                text_field: r.or("data.text_field", "text".to_owned())?,
                label_field: r.or("data.label_field", "label".to_owned())?,
                model: r.or("data.model", "embedded".to_owned())?,
                hook_point: {
                    let text = r.or("data.hook_point", "blocks.2.hook_resid_post".to_owned())?;
                    text.parse().map_err(|_| {
                        let expected = "a hook point, such as blocks.2.hook_resid_post";
                        r.wrong("data.hook_point", format!("\"{text}\""), expected)
                    })?
                },
                context: r.or("data.context", 64)?,
                passages: r.or("data.passages", 100)?,
                per_class: r.or("data.per_class", 400)?,
                test_share: r.or("data.test_share", 0.25)?,
            },
        };
        let config = Self {
            seed,
            bottleneck: KeyValueOptions {
                codebooks: r.or("bottleneck.codebooks", 32)?,
                keys: r.or("bottleneck.keys", 256)?,
                d_key: r.or("bottleneck.d_key", 8)?,
                classes: r.or("data.classes", d.classes)?,
                decay: r.or("bottleneck.decay", d.decay)?,
                expiry: r.or("bottleneck.expiry", d.expiry)?,
                lr: r.or("training.lr", d.lr)?,
                label_smoothing: r.or("training.label_smoothing", d.label_smoothing)?,
            },
            data,
            classes_per_split: r.or("data.classes_per_split", 2)?,
            epochs: r.or("training.epochs", 60)?,
            batch: r.or("training.batch", 32)?,
            probe_lr: r.or("training.probe_lr", 1.0)?,
        };
        let b = &config.bottleneck;
        for (key, found, least) in [
            ("bottleneck.codebooks", b.codebooks, 1),
            ("bottleneck.keys", b.keys, 1),
            ("bottleneck.d_key", b.d_key, 1),
            ("data.classes", b.classes, 2),
            ("data.classes_per_split", config.classes_per_split, 1),
            ("training.epochs", config.epochs, 1),
            ("training.batch", config.batch, 1),
        ]
        .into_iter()
        .chain(config.data.least())
        {
            if found < least {
                return Err(r.wrong(key, found, &format!("at least {least}")).into());
            }
        }
        for (key, found) in [
            ("bottleneck.decay", b.decay),
            ("bottleneck.expiry", b.expiry),
            ("training.label_smoothing", b.label_smoothing),
        ] {
            if !(0.0..1.0).contains(&found) {
                return Err(r.wrong(key, found, "0 or more, and less than 1").into());
            }
        }
        for (key, found) in [
            ("training.lr", b.lr),
            ("training.probe_lr", config.probe_lr),
        ] {
            if found <= 0.0 {
                return Err(r.wrong(key, found, "more than 0").into());
            }
        }
        match config.data {
            ClassData::Blobs {
                d_in, per_class, ..
            } => {
                if let Some((name, found, expected)) = b.too_large(d_in) {
                    return Err(r.wrong(&key_of(name), found, &expected).into());
                }
                // Inputs as f32, twice, and the keys that training inputs fetch as numbers of 8
                // bytes.
                let of_input = d_in
                    .saturating_mul(4)
                    .saturating_add(product(&[b.codebooks, 2]));
                if let Some(expected) = too_large(product(&[b.classes, per_class, of_input])) {
                    return Err(r.wrong("data.per_class", per_class, &expected).into());
                }
            }
            // The width of an input is the model's.
            ClassData::Text { test_share, .. } => {
                if !(test_share > 0.0 && test_share < 1.0) {
                    let expected = "more than 0, and less than 1";
                    return Err(r.wrong("data.test_share", test_share, expected).into());
                }
            }
        }
        r.finish()?;
        Ok(config)
    }

    /// Inputs drawn as the config says; `None` where they are read from texts.
    pub fn blobs(&self) -> Option<ClassRows> {
        let ClassData::Blobs {
            d_in,
            radius,
            noise,
            per_class,
        } = self.data
        else {
            return None;
        };
        let classes = self.bottleneck.classes;
        let mut rng = generator(self.seed, stream::TRAINING, 0);
        let mut draw =
            |n: usize| -> Vec<f64> { (0..n).map(|_| f64::from(normal(&mut rng))).collect() };
        let mut centres = draw(classes * d_in);
        for centre in centres.chunks_mut(d_in) {
            let norm = centre.iter().map(|c| c * c).sum::<f64>().sqrt();
            centre.iter_mut().for_each(|c| *c *= radius / norm);
        }
        let mut blob = |class: usize, n: usize| -> Vec<f32> {
            let errors = draw(n * d_in);
            let centre = centres[class * d_in..][..d_in].iter().cycle();
            let pairs = errors.iter().zip(centre);
            pairs.map(|(e, c)| (c + noise * e) as f32).collect()
        };
        let half = per_class / 2;
        let mut make = |n| {
            (0..classes)
                .map(|class| blob(class, n))
                .collect::<Vec<Vec<f32>>>()
        };
        Some(ClassRows {
            d_in,
            train: make(per_class),
            test: make(half),
            unlabelled: make(half).concat(),
        })
    }

    /// Learns the classes, split after split. `on_split` hears the number of splits learned.
    ///
    /// # Errors
    /// When a size is 0, there are other classes than the bottleneck has, one without inputs, or no
    /// unlabelled input.
    pub fn run(
        &self,
        rows: &ClassRows,
        device: &Device,
        on_split: &mut dyn FnMut(usize),
    ) -> Result<Incremental, CodebookError> {
        let classes = self.bottleneck.classes;
        let d_in = rows.d_in;
        for (what, found) in [("train", &rows.train), ("test", &rows.test)] {
            let full = found.iter().filter(|rows| rows.len() >= d_in).count();
            if found.len() != classes || full != classes {
                let expected = format!("{classes}, as data.classes says");
                let what = format!("classes with inputs to {what}");
                return Err(CodebookError::value(what, full, expected));
            }
        }
        if let Some((name, found, expected)) = self.bottleneck.too_large(d_in) {
            return Err(CodebookError::value(key_of(name), found, expected));
        }
        let (train, test) = (&rows.train, &rows.test);
        let matrix = |rows: Vec<f32>| -> Tensor<2> {
            let shape = [rows.len() / d_in, d_in];
            Tensor::from_data(TensorData::new(rows, shape), device)
        };

        let mut bottleneck =
            KeyValueBottleneck::new(self.bottleneck.clone(), d_in, self.seed, device)?;
        let mut rng = generator(self.seed, stream::ORDER, 0);
        let unlabelled = rows.unlabelled.chunks(d_in).map(<[f32]>::to_vec);
        let mut unlabelled: Vec<Vec<f32>> = unlabelled.collect();
        unlabelled.shuffle(&mut rng);
        bottleneck.start_keys(&matrix(unlabelled.concat()))?;
        for _ in 0..KEY_PASSES {
            for some in unlabelled.chunks(KEY_BATCH) {
                bottleneck.update_keys(&matrix(some.concat()))?;
            }
        }

        let mut probe = Probe::new(d_in, classes, self.probe_lr);
        let fetch =
            |b: &KeyValueBottleneck, rows: &[Vec<f32>]| -> Result<Vec<Vec<usize>>, CodebookError> {
                rows.iter()
                    .map(|rows| b.nearest(&matrix(rows.clone())))
                    .collect()
            };
        let test_keys = fetch(&bottleneck, test)?;
        let accuracy = |b: &KeyValueBottleneck, classes: std::ops::Range<usize>| -> f64 {
            let of = |class: usize| right(&b.logits(&test_keys[class]), b.options().classes, class);
            let n = classes.len() as f64;
            classes.map(of).sum::<f64>() / n
        };
        let split = self.classes_per_split;
        let mut retention = vec![];
        for first in (0..classes).step_by(split) {
            let here = first..(first + split).min(classes);
            let keys = fetch(&bottleneck, &train[here.clone()])?.concat();
            let inputs: Vec<f32> = train[here.clone()].concat();
            let labels = here.flat_map(|class| vec![class; train[class].len() / d_in]);
            let labels: Vec<usize> = labels.collect();
            let c = self.bottleneck.codebooks;
            let mut order: Vec<usize> = (0..labels.len()).collect();
            for _ in 0..self.epochs {
                order.shuffle(&mut rng);
                for some in order.chunks(self.batch) {
                    let own: Vec<usize> = some.iter().map(|i| labels[*i]).collect();
                    let fetched = some.iter().flat_map(|i| &keys[i * c..][..c]);
                    let fetched: Vec<usize> = fetched.copied().collect();
                    bottleneck.train_values(&fetched, &own);
                    let x = some.iter().flat_map(|i| &inputs[i * d_in..][..d_in]);
                    let x: Vec<f32> = x.copied().collect();
                    probe.step(&x, &own);
                }
            }
            retention.push(accuracy(&bottleneck, 0..split.min(classes)));
            on_split(retention.len());
        }
        for (key, lr, numbers) in [
            ("training.lr", self.bottleneck.lr, bottleneck.values()),
            ("training.probe_lr", self.probe_lr, &probe.weights),
        ] {
            if !numbers.iter().all(|number| number.is_finite()) {
                let expected = "a rate with which all numbers stay finite";
                return Err(CodebookError::value(key, lr, expected));
            }
        }
        let probed = (0..classes).map(|class| right(&probe.logits(&test[class]), classes, class));
        Ok(Incremental {
            accuracy_dkvb: accuracy(&bottleneck, 0..classes),
            accuracy_probe: probed.sum::<f64>() / classes as f64,
            retention,
        })
    }
}

impl ClassData {
    /// The least value of each size.
    fn least(&self) -> Vec<(&'static str, usize, usize)> {
        match self {
            Self::Blobs {
                d_in, per_class, ..
            } => vec![("data.d_in", *d_in, 1), ("data.per_class", *per_class, 2)],
            Self::Text {
                context,
                passages,
                per_class,
                ..
            } => vec![
                ("data.context", *context, 2),
                ("data.passages", *passages, 1),
                ("data.per_class", *per_class, 1),
            ],
        }
    }
}

/// What a class-incremental run came to, on test inputs of all classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incremental {
    /// Accuracy of the bottleneck after the last split.
    pub accuracy_dkvb: f64,
    /// Accuracy of the linear probe after the last split.
    pub accuracy_probe: f64,
    /// Accuracy of the bottleneck on the classes of the first split, after each split.
    pub retention: Vec<f64>,
}

/// The share of rows of logits whose largest is that of `class`.
fn right(logits: &[f64], classes: usize, class: usize) -> f64 {
    let rows = logits.chunks(classes);
    let n = rows.len().max(1) as f64;
    let best = |row: &[f64]| {
        let all = row.iter().enumerate();
        all.max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))
            .map(|(i, _)| i)
    };
    rows.filter(|row| best(row) == Some(class)).count() as f64 / n
}

/// A linear classifier, trained by stochastic gradient descent.
struct Probe {
    d_in: usize,
    classes: usize,
    lr: f64,
    /// `[d_in + 1, classes]`; the last row is the bias.
    weights: Vec<f64>,
}

impl Probe {
    fn new(d_in: usize, classes: usize, lr: f64) -> Self {
        Self {
            d_in,
            classes,
            lr,
            weights: vec![0.0; (d_in + 1) * classes],
        }
    }

    fn logits(&self, x: &[f32]) -> Vec<f64> {
        let k = self.classes;
        let mut out = vec![];
        for row in x.chunks(self.d_in) {
            let mut logits = self.weights[self.d_in * k..].to_vec();
            for (v, w) in row.iter().zip(self.weights.chunks(k)) {
                logits
                    .iter_mut()
                    .zip(w)
                    .for_each(|(l, w)| *l += f64::from(*v) * w);
            }
            out.extend(logits);
        }
        out
    }

    fn step(&mut self, x: &[f32], labels: &[usize]) {
        let (k, n) = (self.classes, labels.len() as f64);
        let logits = self.logits(x);
        for ((row, label), logits) in x.chunks(self.d_in).zip(labels).zip(logits.chunks(k)) {
            let gradient = cross_entropy_gradient(logits, *label, 0.0);
            let row = row.iter().map(|v| f64::from(*v)).chain([1.0]);
            for (v, w) in row.zip(self.weights.chunks_mut(k)) {
                w.iter_mut()
                    .zip(&gradient)
                    .for_each(|(w, g)| *w -= self.lr * v * g / n);
            }
        }
    }
}

/// The key of a config for a size of the bottleneck.
fn key_of(size: &str) -> String {
    let table = match size {
        "d_in" | "classes" => "data",
        _ => "bottleneck",
    };
    format!("{table}.{size}")
}
