//! Tokens as text. Truncation, padding and dropout that a tokenizer's file stores are not applied.
//! The text of a single token is what it adds to a longer text. Sequences end where the
//! configurations say. Greedy tokens are those that `transformers` generates
//! (`scripts/make_model_fixtures.py`).

use crate::changed_model::model_with;
use crate::fixtures::model_folder;
use burn::tensor::Device;
use lapidary_model::{LanguageModel, Sampling, Tokenizer, generate};
use serde_json::{Value, json};
use std::collections::HashSet;

fn sentencepiece() -> Tokenizer {
    let path = model_folder("sentencepiece-like").join("tokenizer.json");
    Tokenizer::read(&path, Some(1), &[2]).unwrap()
}

fn expected() -> Value {
    lapidary_io::read_json(&model_folder("sentencepiece-like").join("expected.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap().iter();
    list.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn embedded() -> LanguageModel {
    LanguageModel::load("embedded", &Device::flex()).unwrap()
}

#[test]
fn truncation_padding_and_dropout_that_a_file_stores_are_not_obeyed() {
    let model = embedded();
    let mut file: Value =
        serde_json::from_str(&model.tokenizer().unwrap().to_json().unwrap()).unwrap();
    file["truncation"] =
        json!({"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({
        "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    });
    file["model"]["dropout"] = json!(0.9);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, format!("\u{feff}{file}")).unwrap();
    let tokenizer = Tokenizer::read(&path, Some(0), &[0]).unwrap();
    assert_eq!(tokenizer.encode("We").unwrap(), [1019]);
    let long = "The people of the United States ask the Congress to hear them, and to do what they were sent to do.";
    let plain = model.tokenizer().unwrap().encode(long).unwrap();
    assert!(plain.len() > 16);
    assert_eq!(tokenizer.encode(long).unwrap(), plain);
    let both = tokenizer.encode_batch(vec!["We", long]).unwrap();
    assert_eq!(both, [vec![1019], plain]);
}

#[test]
fn a_tokenizer_that_is_cut_off_anywhere_is_one_error() {
    let text = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "war": 1}, "unk_token": "<unk>"}}"#;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Tokenizer::read(&path, None, &[])
    };
    assert_eq!(read(text).unwrap().encode("war").unwrap(), [1]);
    for end in 0..text.len() {
        let error = read(&text[..end]).err().unwrap().to_string();
        assert!(error.contains("tokenizer.json"), "cut at {end}: {error}");
    }
}

#[test]
fn a_token_looks_as_it_stands_in_a_text() {
    let tokenizer = sentencepiece();
    let expected = expected();
    let vocabulary: Value =
        lapidary_io::read_json(&model_folder("sentencepiece-like").join("tokenizer.json")).unwrap();
    let inside = expected["inside"].as_object().unwrap();
    assert!(inside.len() > 30);
    for (token, text) in inside {
        let id = vocabulary["model"]["vocab"][token].as_u64().unwrap() as u32;
        assert_eq!(tokenizer.token_text(id), text.as_str().unwrap());
    }
    // A byte that is a character of its own yields to the token that is that character.
    let of = |token: &str| {
        let id = vocabulary["model"]["vocab"][token].as_u64().unwrap();
        tokenizer.token_text(id as u32)
    };
    assert_eq!((of("D"), of("<0x44>")), ("D".into(), "<0x44>".into()));
    assert_eq!((of("\n"), of("<0x0A>")), ("\n".into(), "<0x0A>".into()));
    assert_eq!((of("<0xE2>"), of("<s>")), ("<0xE2>".into(), "<s>".into()));
    // `%` is in no piece, so its byte is all there is.
    assert_eq!((of("<0x25>"), of("▁")), ("%".into(), " ".into()));
}

#[test]
fn no_two_tokens_of_a_vocabulary_look_the_same() {
    let model = embedded();
    for tokenizer in [&sentencepiece(), model.tokenizer().unwrap()] {
        let texts: Vec<String> = (0..tokenizer.len() as u32 + 3)
            .map(|id| tokenizer.token_text(id))
            .collect();
        let different: HashSet<&String> = texts.iter().collect();
        assert_eq!(different.len(), texts.len());
        assert!(
            texts
                .iter()
                .all(|text| !text.is_empty() && !text.contains('\u{fffd}'))
        );
    }
}

#[test]
fn a_context_reads_as_the_text_does() {
    let tokenizer = sentencepiece();
    for case in expected()["encoded"].as_array().unwrap() {
        let (text, tokens) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        assert_eq!(tokenizer.encode(text).unwrap(), tokens);
        // Inside a text each part stands with its space, at the beginning the space that is put
        // there does not.
        assert_eq!(tokenizer.texts(&tokens).concat(), format!(" {text}"));
        let after_bos = [&[1], tokens.as_slice()].concat();
        assert_eq!(tokenizer.texts(&after_bos).concat(), format!("<s>{text}"));
        // A character of several tokens stands at the last of them.
        for n in 0..tokens.len() {
            let start = tokenizer.texts(&tokens[..n]).concat();
            let whole = start.split("<0x").next().unwrap();
            assert!(format!(" {text}").starts_with(whole), "{start:?}");
        }
    }
    let model = embedded();
    let tokenizer = model.tokenizer().unwrap();
    let text = "The café on the hill — 😀 — is open; naïve?";
    let tokens = tokenizer.encode(text).unwrap();
    let texts = tokenizer.texts(&tokens);
    assert_eq!((texts.concat().as_str(), texts.len()), (text, tokens.len()));
    // A piece of a character is told from other pieces.
    let emoji = tokenizer.encode("😀").unwrap();
    assert!(emoji.len() > 1);
    assert!(tokenizer.texts(&emoji[..1])[0].starts_with("<0xF0>"));
}

#[test]
fn a_stream_of_tokens_comes_to_the_text_that_transformers_decodes() {
    let tokenizer = sentencepiece();
    for case in expected()["decoded"].as_array().unwrap() {
        let (text, tokens) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        for before in 0..2 {
            let mut stream = tokenizer.stream(&tokens[..before]);
            let mut shown = tokenizer.decode_plain(&tokens[..before]);
            for (i, token) in tokens.iter().enumerate().skip(before) {
                shown += &stream.push(*token);
                // What follows an invalid byte is shown as soon as it is there.
                if i == 4 && text.starts_with("peace on") {
                    assert_eq!(shown, "peace on G�act");
                }
            }
            shown += &stream.finish();
            // A character half of which stood there before cannot be taken back.
            if before == 0 || tokens[0] != 198 {
                assert_eq!(shown, text);
            }
        }
    }
}

#[test]
fn greedy_tokens_are_those_that_transformers_generates() {
    for case in expected()["generated"].as_array().unwrap() {
        let folder = model_with(
            &model_folder("sentencepiece-like"),
            &case["config"],
            &case["generation_config"],
        );
        let path = folder.path().to_str().unwrap();
        let prompt = case["prompt"].as_str().unwrap();
        let model = LanguageModel::load(path, &Device::flex()).unwrap();
        let tokens = model.tokenizer().unwrap().encode(prompt).unwrap();
        let tokens = [&[1], tokens.as_slice()].concat();
        let greedy = Sampling {
            max_tokens: 12,
            temperature: 0.0,
            ..Default::default()
        };
        let found = generate(&model, &tokens, &greedy, &[], &mut |_| ()).unwrap();
        assert_eq!(found, ids(&case["ids"]), "{case}");
    }
}

#[test]
fn every_end_of_a_sequence_is_special() {
    let load = |config: Value, generation: Value| {
        let folder = model_with(&model_folder("sentencepiece-like"), &config, &generation);
        LanguageModel::load(folder.path().to_str().unwrap(), &Device::flex()).unwrap()
    };
    let model = load(json!({"eos_token_id": [2, 550]}), json!(null));
    assert_eq!(
        (model.special_tokens(), model.stop_tokens()),
        (vec![1, 2, 550], &[2, 550][..])
    );
    assert_eq!(model.tokenizer().unwrap().eos(), Some(2));
    let model = load(
        json!({}),
        json!({"eos_token_id": [550, 7], "bos_token_id": 5}),
    );
    assert_eq!(
        (model.special_tokens(), model.stop_tokens()),
        (vec![1, 2, 5, 7, 550], &[550, 7][..])
    );
    // What fills up is no text where the tokenizer says so; here `<unk>` is special and token 300
    // is a letter.
    assert!(load(json!({"pad_token_id": 0}), json!(null)).is_special(0));
    assert!(!load(json!({"pad_token_id": 300}), json!(null)).is_special(300));
    let folder = model_with(
        &model_folder("sentencepiece-like"),
        &json!({}),
        &json!({"eos_token_id": "x"}),
    );
    let error = LanguageModel::load(folder.path().to_str().unwrap(), &Device::flex());
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("generation_config.json") && error.contains("eos_token_id"),
        "{error}"
    );
}
