//! `lapidary label`.

use crate::arguments::{DeviceArgument, DictionaryArgument, TextArgument};
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::Args;
use lapidary::run_folder::RunFolder;
use lapidary::{
    ClampOptions, LabelOptions, LabelWriter, Progress, check_labels, count, label, rewrite_report,
    save_labels,
};
use lapidary_features::labels::{
    Confusion, EndpointConfig, ExampleConfig, JobConfig, LabelMethod, PmiConfig, Prices,
};
use lapidary_io::check_target;
use std::fmt;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Label latents, and score the labels on other documents
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary label out
  lapidary label out --method pmi,top-token,lens --tokens 500000 --out labels.parquet
  lapidary label out --method llm --endpoint http://127.0.0.1:8000/v1 --endpoint-model NAME --sample 200

Labels are made from one half of the documents. They use the strongest contexts of a latent. Each context ends at a peak, which is a token
on which the latent's activation is large. The methods are:
  pmi        up to 3 n-grams d (of 1 to 3 tokens) with the highest log p(d | contexts) - lambda log p(d). They are frequent at the ends
             of the contexts and rare elsewhere. Only n-grams that end at a peak, or one token before it, are candidates
  top-token  the token that is most often the peak, a baseline
  lens       the 3 tokens whose logits the decoder row raises most
  llm        a sentence that a language model writes. The model is reached by an OpenAI-compatible HTTP endpoint. It sees up to 40
             windows per latent, and later judges whether its label fits other windows. One request per latent is for the label, up to
             40 are for the scores. Finished requests are kept in a file beside the output, whose name is that of the output with
             .requests.jsonl at the end. After an interruption, the same command sends only the missing requests

All labels are scored on windows of 32 tokens from the other half of the documents: up to 50 windows in which the latent fires, from the
whole range of its activations, and 50 windows in which it does not fire. Detection: does the label predict in which windows the latent
fires? Fuzzing: some tokens of each window are marked. Does the label predict in which windows these are the tokens on which the latent
fires? Both scores are balanced accuracies: 0.5 is chance. A latent with fewer than 10 windows of either kind has no scores.

Clamping: the model runs on up to 8 windows, once unchanged, and once with the latent set to its largest activation in the text. Do the
probabilities of the label's tokens rise more than those of the tokens of other latents' labels? The score is the share of other labels
whose tokens gain less: 0.5 is chance. Labels by llm have no such score. docs/methods/labels.md defines all scores.

Columns of the output: feature_id, label (n-grams separated by |), method, detection, fuzzing, clamping. If the file exists, labels by
other methods are kept, and all labels by the methods of this run are replaced. For llm, only those of the same latents are replaced.
If the output is DIR/labels.parquet, DIR/report.html is written again with the labels.")]
pub struct Label {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Methods, separated by commas, chosen from pmi, top-token, lens and llm
    #[arg(long, value_name = "METHOD", value_delimiter = ',', default_value = "pmi", value_parser = method)]
    method: Vec<Method>,
    /// Language model; default: the model that the dictionary names
    #[arg(long)]
    model: Option<String>,
    /// Text: `embedded`, a file, a folder, or hf:OWNER/NAME (a dataset on the Hugging Face hub);
    /// default: the text that the dictionary was trained on
    #[arg(long)]
    corpus: Option<String>,
    #[command(flatten)]
    text: TextArgument,
    /// Number of tokens. Their codes are kept in memory, with 24 bytes for each active latent of
    /// each token
    #[arg(long, default_value_t = 200_000)]
    tokens: u64,
    /// Weight of the frequency of an n-gram in the method pmi; 0 prefers frequent n-grams
    #[arg(long, default_value_t = 0.2)]
    lambda: f64,
    /// With --method pmi: minimum number of occurrences of an n-gram in the half of the documents
    /// that labels are made from
    #[arg(long, default_value_t = 3, value_name = "N")]
    min_count: u64,
    /// Seed for the choice of windows
    #[arg(long, default_value_t = 22)]
    seed: u64,
    /// Number of latents, drawn at random, whose labels are also scored by clamping; 0 means none;
    /// default: 100. Labels by llm are not scored by clamping
    #[arg(long, value_name = "N")]
    clamp: Option<usize>,
    /// With --method llm: address of the endpoint, such as http://127.0.0.1:8000/v1
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// With --method llm: name of the model at the endpoint
    #[arg(long, value_name = "NAME")]
    endpoint_model: Option<String>,
    /// With --method llm: environment variable that holds the key of the endpoint, if it needs one
    #[arg(long, value_name = "NAME", default_value = "OPENAI_API_KEY")]
    key_variable: String,
    /// With --method llm: number of latents to label, which are drawn at random; default: 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "latent")]
    sample: Option<u32>,
    /// With --method llm: label these latents, separated by commas, instead of a sample
    #[arg(long, value_delimiter = ',', value_name = "ID,ID…")]
    latent: Vec<u32>,
    /// With --method llm: maximum number of requests at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// With --method llm: maximum number of requests per minute
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_minute: Option<u32>,
    /// With --method llm: price per million prompt tokens and price per million completion tokens,
    /// such as 0.15,0.6. The estimate then has the cost
    #[arg(long, value_delimiter = ',', num_args = 1, value_name = "IN,OUT")]
    prices: Vec<f64>,
    /// With --method llm: print the estimate of requests and tokens, and send nothing
    #[arg(long)]
    estimate: bool,
    /// Parquet file to write or to add to; default: DIR/labels.parquet, if DIR is the folder of a
    /// run with feature tables
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Label {
    pub fn run(self) -> Result<()> {
        let run = RunFolder::new(&self.dictionary);
        let own = run.labels();
        let in_run = run.features().join("features.parquet").is_file();
        let out = match &self.out {
            Some(out) => out.clone(),
            // Where there is nothing at all, opening the dictionary says so.
            None if in_run || !self.dictionary.exists() => own.clone(),
            None => bail!(
                "give --out: {} is no folder of a run with feature tables",
                self.dictionary.display()
            ),
        };
        if self.out.is_some() || in_run {
            check_target(&out)?;
        }
        crate::once::each_once("--method", &self.method)?;
        let of_tokens = self.method.iter().any(|method| *method != Method::Model);
        if let (Some(clamp), false) = (self.clamp, of_tokens) {
            bail!(
                "--clamp: found {clamp} for labels by llm only, which have no tokens to look for"
            );
        }
        let writer = self.writer(&out)?;
        let device = self.device.open()?;
        let model = self.model.as_deref();
        let opened = self
            .from
            .open_with_model(&self.dictionary, model, &device)?;
        if self.out.is_none() && !in_run {
            bail!("give --out: the dictionary is not in a folder of this machine");
        }
        if !self.estimate {
            check_labels(&out, &opened.dictionary)?;
        }
        let methods = self.method.iter().filter_map(|method| match method {
            Method::Tokens(method) => Some(*method),
            Method::Model => None,
        });
        let options = LabelOptions {
            methods: methods.collect(),
            corpus: self.corpus,
            text: self.text.options(),
            tokens: self.tokens,
            pmi: PmiConfig {
                lambda: self.lambda,
                min_count: self.min_count,
                ..PmiConfig::default()
            },
            examples: ExampleConfig {
                seed: self.seed,
                ..ExampleConfig::default()
            },
            clamp: ClampOptions {
                latents: match (self.estimate, self.clamp) {
                    (true, _) => 0,
                    (false, given) => given.unwrap_or(ClampOptions::default().latents),
                },
                seed: self.seed,
                ..ClampOptions::default()
            },
            writer,
        };
        let labelled = label(&opened, &options, &Watched)?;
        if self.estimate {
            if let Some(failed) = labelled.failed {
                return Err(failed.into());
            }
            writeln!(stdout(), "{}", labelled.estimate.unwrap_or_default())?;
            return Ok(());
        }
        if !labelled.rows.is_empty() || labelled.failed.is_none() {
            let stayed = save_labels(&out, &labelled)?;
            if stayed > 0 {
                let kept = format!("{} of before", count(stayed as u64, "label"));
                Watched.say("kept", &kept);
            }
            let is_own = same_file(&out, &own);
            if is_own
                && run.report().is_file()
                && let Err(error) = rewrite_report(&run, &Watched)
            {
                Watched.say(
                    "note",
                    &format!("the report does not show the labels: {error}"),
                );
            }
        }
        let accuracy = |counts: &Confusion| match counts.balanced_accuracy() {
            Some(accuracy) => format!("{accuracy:.3}"),
            None => "-".to_owned(),
        };
        let [detection, fuzzing, scored] = ["detection", "fuzzing", "scored"];
        let line = format!("{:<10} {detection:>9} {fuzzing:>9} {scored:>9}", "method");
        writeln!(stdout(), "{line} {:>9} {:>9}", "clamping", "clamped")?;
        for scores in &labelled.pooled {
            let (detection, fuzzing) = (accuracy(&scores.detection), accuracy(&scores.fuzzing));
            let clamping = scores
                .clamping
                .map_or("-".to_owned(), |s| format!("{s:.3}"));
            let (method, scored, clamped) = (scores.method, scores.scored, scores.clamped);
            let line = format!("{method:<10} {detection:>9} {fuzzing:>9} {scored:>9}");
            writeln!(stdout(), "{line} {clamping:>9} {clamped:>9}")?;
        }
        labelled.failed.map_or(Ok(()), |failed| Err(failed.into()))
    }
}

/// Whether two paths name one file.
fn same_file(a: &Path, b: &Path) -> bool {
    let [a, b] = [a, b].map(Path::canonicalize);
    matches!((a, b), (Ok(a), Ok(b)) if a == b)
}

/// How labels are made.
#[derive(Clone, Copy, PartialEq)]
enum Method {
    Tokens(LabelMethod),
    Model,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Tokens(method) => method.name(),
            Method::Model => "llm",
        })
    }
}

fn method(name: &str) -> Result<Method, String> {
    if name == "llm" {
        return Ok(Method::Model);
    }
    let names = LabelMethod::ALL.map(LabelMethod::name).join(", ");
    let method = LabelMethod::of_name(name).map(Method::Tokens);
    method.ok_or_else(|| format!("found {name}, expected one of {names}, llm"))
}

impl Label {
    /// The language model that writes labels, if one is asked for.
    fn writer(&self, out: &Path) -> Result<Option<LabelWriter>> {
        if !self.method.contains(&Method::Model) {
            let given = [
                ("--endpoint", self.endpoint.is_some()),
                ("--endpoint-model", self.endpoint_model.is_some()),
                ("--latent", !self.latent.is_empty()),
                ("--sample", self.sample.is_some()),
                ("--prices", !self.prices.is_empty()),
                ("--estimate", self.estimate),
            ];
            if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
                bail!("{option} is for --method llm");
            }
            return Ok(None);
        }
        crate::once::each_once("--latent", &self.latent)?;
        let (Some(url), Some(name)) = (&self.endpoint, &self.endpoint_model) else {
            bail!("--method llm needs --endpoint and --endpoint-model");
        };
        let prices = match self.prices[..] {
            [] => None,
            [prompt, completion] => Some(Prices { prompt, completion }),
            _ => bail!(
                "--prices: found {} numbers, expected two",
                self.prices.len()
            ),
        };
        let mut journal = out.as_os_str().to_owned();
        journal.push(".requests.jsonl");
        Ok(Some(LabelWriter {
            endpoint: EndpointConfig {
                key_variable: Some(self.key_variable.clone()),
                max_requests_per_minute: self.requests_per_minute,
                ..EndpointConfig::new(url, name)
            },
            latents: self.latent.clone(),
            sample: self.sample.unwrap_or(100) as usize,
            job: JobConfig {
                parallel: self.parallel.into(),
                seed: self.seed,
            },
            journal: journal.into(),
            prices,
            only_estimate: self.estimate,
        }))
    }
}
