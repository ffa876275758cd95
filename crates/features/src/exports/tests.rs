use std::collections::BTreeMap;

use super::*;
use crate::statistics::Band;
use crate::tables::LogitToken;

type Files = BTreeMap<String, Vec<u8>>;
type Write = fn(&DictionaryExport<'_>, &mut WriteFile<'_>) -> Result<(), FeaturesError>;

/// What a writer gave, by path, and the paths in order.
pub(super) fn written(
    write: Write,
    export: &DictionaryExport<'_>,
) -> Result<(Files, Vec<String>), FeaturesError> {
    let (mut files, mut paths) = (Files::new(), vec![]);
    write(export, &mut |path, bytes| {
        paths.push(path.to_owned());
        assert!(files.insert(path.to_owned(), bytes.to_vec()).is_none());
        Ok(())
    })?;
    Ok((files, paths))
}

pub(super) fn names() -> ExportNames {
    ExportNames {
        model_id: "gpt2-small".into(),
        model_layers: 12,
        neurons_per_layer: 3072,
        model_owner: "OpenAI".into(),
        source_set: "res-16k".into(),
        source_set_description: "Residual Stream - 16k".into(),
        layer: 3,
        suffix: None,
        hook_name: "blocks.3.hook_resid_post".into(),
        creator_id: "user1".into(),
        creator_name: "Some Lab".into(),
        release: "some-release".into(),
        release_description: "Some dictionaries".into(),
        urls: vec!["https://example.org/paper".into()],
        created_at: 1_735_689_599,
        dataset: Some("monology/pile-uncopyrighted".into()),
        n_prompts: Some(4096),
        n_tokens_in_prompt: Some(128),
        hf_repo: Some("lab/weights".into()),
        hf_folder: None,
    }
}

pub(super) fn feature(feature_id: u32) -> FeatureRow {
    let token = |text: &str, logit| LogitToken {
        text: text.into(),
        id: 7,
        logit,
    };
    FeatureRow {
        feature_id,
        hook_point: "blocks.3.hook_resid_post".into(),
        firing_density: 0.25,
        firing_count: 100,
        mean_activation: 1.5,
        max_activation: 4.0,
        std_activation: 0.5,
        quantiles: [0.5, 1.0, 2.0, 3.0, 4.0],
        mean_position: None,
        decoder_norm: 1.0,
        relative_decoder_norms: vec![1.0],
        encoder_decoder_cosine: None,
        logit_kurtosis: None,
        nearest: vec![],
        promoted: vec![token(" cat", 1.5), token("</div>", 0.5)],
        suppressed: vec![token("\n", -1.25)],
        top_tokens: vec![],
        peak_token: None,
        dead: false,
        code: None,
    }
}

pub(super) fn dead(feature_id: u32) -> FeatureRow {
    FeatureRow {
        firing_density: 0.0,
        max_activation: 0.0,
        ..feature(feature_id)
    }
}

pub(super) fn example(feature_id: u32, band: Band, rank: u32, activations: &[f32]) -> ExampleRow {
    let texts = [" the", " cat", "\n", "<b>", "s", "!"];
    let peak = activations.iter().copied().fold(0.0, f32::max);
    ExampleRow {
        feature_id,
        rank,
        band,
        max_activation: peak,
        token_ids: vec![0; activations.len()],
        tokens: (0..activations.len())
            .map(|i| texts[i % 6].into())
            .collect(),
        activations: activations.to_vec(),
        peak_index: activations.iter().position(|a| *a == peak).unwrap_or(0) as u32,
        document: 12,
        position: 345,
    }
}

pub(super) fn histogram() -> Vec<HistogramBin> {
    let bin = |lower, upper, count| HistogramBin {
        lower,
        upper,
        count,
    };
    vec![
        bin(0.5, 1.0, 60),
        bin(1.0, 2.0, 30),
        bin(2.0, f32::INFINITY, 10),
    ]
}

pub(super) fn export<'a>(
    names: &'a ExportNames,
    features: &'a [FeatureRow],
    examples: &'a [ExampleRow],
) -> DictionaryExport<'a> {
    DictionaryExport {
        names,
        features,
        examples,
        histograms: &[],
        explanations: &[],
    }
}

/// What both writers say of input that does not fit together; they must write nothing then.
fn refused(export: &DictionaryExport<'_>) -> String {
    let errors = [write_neuronpedia, write_sae_dashboard].map(|write: Write| {
        let mut wrote = false;
        let result = write(export, &mut |_, _| {
            wrote = true;
            Ok(())
        });
        assert!(!wrote);
        result.unwrap_err().to_string()
    });
    assert_eq!(errors[0], errors[1]);
    errors[0].clone()
}

#[test]
fn rows_that_do_not_fit_together_are_refused_before_the_first_file() {
    let names = names();
    let features = [feature(0), feature(5)];
    let good = example(5, Band::Top, 0, &[0.0, 1.0]);
    let all = export(&names, &features, &[]);

    let unknown = [good.clone(), example(4, Band::Top, 0, &[1.0])];
    let error = refused(&export(&names, &features, &unknown));
    assert!(error.contains("examples.feature_id: found 4"), "{error}");

    let mut short = good.clone();
    short.tokens.pop();
    let error = refused(&export(&names, &features, &[short]));
    assert!(error.contains("1 tokens and 2 activations"), "{error}");

    let error = refused(&export(&names, &features, &[example(5, Band::Top, 0, &[])]));
    assert!(error.contains("0 tokens"), "{error}");

    let mut beyond = good.clone();
    beyond.peak_index = 2;
    let error = refused(&export(&names, &features, &[beyond]));
    assert!(error.contains("examples.peak_index: found 2"), "{error}");

    for ids in [[5, 5], [5, 0]] {
        let features = ids.map(feature);
        let error = refused(&export(&names, &features, &[]));
        assert!(error.contains("ascending"), "{error}");
    }

    for density in [f64::NAN, -0.1, 1.5, f64::INFINITY] {
        let mut features = [feature(0)];
        features[0].firing_density = density;
        let error = refused(&export(&names, &features, &[]));
        assert!(error.contains("firing_density"), "{error}");
    }

    let histograms = [histogram()];
    let error = refused(&DictionaryExport {
        histograms: &histograms,
        ..all
    });
    assert!(error.contains("histograms: found 1 entries"), "{error}");

    for (feature_id, text) in [(1, "cats"), (5, " \n")] {
        let explanations = [FeatureExplanation {
            feature_id,
            text: text.into(),
            ..FeatureExplanation::default()
        }];
        let error = refused(&DictionaryExport {
            explanations: &explanations,
            ..all
        });
        assert!(error.starts_with("explanations."), "{error}");
    }
}

#[test]
fn names_that_would_leave_the_folder_or_break_the_id_are_refused() {
    type Change = fn(&mut ExportNames);
    let changes: [(Change, &str); 10] = [
        (|n| n.model_id = "../etc".into(), "model_id"),
        (|n| n.model_id = "..".into(), "model_id"),
        (|n| n.model_id = String::new(), "model_id"),
        (|n| n.model_id = "openai/gpt2".into(), "model_id"),
        (|n| n.source_set = "a\\b".into(), "source_set"),
        (|n| n.source_set = "a__b".into(), "source_set"),
        (|n| n.suffix = Some("l0 32".into()), "suffix"),
        (|n| n.creator_id = " ".into(), "creator_id"),
        (|n| n.creator_name = String::new(), "creator_name"),
        (|n| n.release = String::new(), "release"),
    ];
    for (change, field) in changes {
        let mut names = names();
        change(&mut names);
        let error = refused(&export(&names, &[], &[]));
        assert!(error.starts_with(&format!("names.{field}: ")), "{error}");
    }
}

#[test]
fn an_error_of_the_caller_ends_the_export() {
    let names = names();
    let features = [feature(0)];
    for write in [write_neuronpedia as Write, write_sae_dashboard] {
        let mut calls = 0;
        let result = write(&export(&names, &features, &[]), &mut |_, _| {
            calls += 1;
            Err(input("disk", "no room".into(), "some"))
        });
        assert!(result.unwrap_err().to_string().starts_with("disk: "));
        assert_eq!(calls, 1);
    }
}
