use super::*;
use std::collections::BTreeSet;

fn pieces(text: &[&str]) -> Vec<String> {
    text.iter().map(|piece| piece.to_string()).collect()
}

fn windows(n: usize) -> Vec<Vec<String>> {
    (0..n)
        .map(|i| pieces(&["text", " number", &format!(" w{i}.")]))
        .collect()
}

#[test]
fn an_explanation_prompt_marks_and_lists_the_strong_tokens() {
    let first = pieces(&["in", " New", " York", ",\n", " where"]);
    let second = pieces(&["the", " city"]);
    let messages = explanation_prompt(&[
        TextContext {
            pieces: &first,
            // 3.0 is exactly 0.3 of the maximum: not above it.
            activations: &[3.0, 4.4, 10.0, 0.0, 3.1],
        },
        TextContext {
            pieces: &second,
            activations: &[0.0, 5.0],
        },
    ])
    .unwrap();
    assert_eq!(
        messages.iter().map(|m| m.role.name()).collect::<Vec<_>>(),
        ["system", "user"]
    );
    assert_eq!(
        messages[1].content,
        "Example 1: in<< New York>>,\\n<< where>>\n\
         Activations: (\" New\": 4), (\" York\": 10), (\" where\": 3)\n\
         Example 2: the<< city>>\n\
         Activations: (\" city\": 5)\n"
    );
    assert!(messages[0].content.contains("[EXPLANATION]:"));
}

#[test]
fn every_window_is_asked_about_once_in_groups_of_five() {
    let windows = windows(13);
    let batches = detection_prompts("A number.", &windows, 1);
    let sizes: Vec<usize> = batches.iter().map(|batch| batch.windows.len()).collect();
    assert_eq!(sizes, [5, 5, 3]);
    let order: Vec<usize> = batches
        .iter()
        .flat_map(|batch| batch.windows.clone())
        .collect();
    assert_ne!(order, (0..13).collect::<Vec<_>>());
    assert_eq!(order.iter().copied().collect::<BTreeSet<_>>().len(), 13);
    for batch in &batches {
        let asked = &batch.messages.last().unwrap().content;
        let expected: Vec<String> = batch
            .windows
            .iter()
            .enumerate()
            .map(|(i, window)| format!("Example {}: text number w{window}.", i + 1))
            .collect();
        assert_eq!(asked.lines().skip(2).collect::<Vec<_>>(), expected);
        assert!(asked.starts_with("Description: A number.\n"));
        assert!(asked.contains(&format!("exactly {}.", batch.windows.len())));
    }
    assert_eq!(batches, detection_prompts("A number.", &windows, 1));
    let other = detection_prompts("A number.", &windows, 2);
    assert_ne!(batches[0].windows, other[0].windows);
}

#[test]
fn a_last_group_of_three_is_read_and_a_wrong_length_is_malformed() {
    let batches = detection_prompts("A number.", &windows(13), 1);
    assert_eq!(
        batches[2].predictions("```\n[1, 0, 0]\n```"),
        [Some(true), Some(false), Some(false)]
    );
    assert_eq!(batches[2].predictions("[1, 0, 1, 0, 0]"), [None; 3]);
    assert_eq!(batches[0].predictions("I cannot tell."), [None; 5]);
}

#[test]
fn three_solved_examples_come_first_and_their_replies_parse() {
    let windows = windows(5);
    let marks = vec![vec![false, true, false]; 5];
    let detection = detection_prompts("x", &windows, 0);
    let fuzzing = fuzzing_prompts("x", &windows, &marks, 0).unwrap();
    for batch in [&detection[0], &fuzzing[0]] {
        let roles: Vec<&str> = batch.messages.iter().map(|m| m.role.name()).collect();
        let turn = ["user", "assistant"];
        assert_eq!(
            roles,
            [&["system"][..], &turn, &turn, &turn, &["user"]].concat()
        );
        for reply in batch.messages.iter().filter(|m| m.role == Role::Assistant) {
            let predictions = parse_predictions(&reply.content, 5).unwrap();
            assert!(predictions.contains(&true) && predictions.contains(&false));
        }
    }
    assert!(fuzzing[0].messages[1].content.contains("<<"));
    assert!(
        !detection[0]
            .messages
            .iter()
            .any(|m| m.content.contains("<<"))
    );
}

#[test]
fn fuzzing_prompts_show_the_marks() {
    let windows = vec![pieces(&["a", "b", "c", "d\t"])];
    let marks = vec![vec![true, false, true, true]];
    let batches = fuzzing_prompts("x", &windows, &marks, 0).unwrap();
    let asked = &batches[0].messages.last().unwrap().content;
    assert!(asked.ends_with("Example 1: <<a>>b<<cd\\t>>\n"), "{asked}");
}

#[test]
fn a_text_with_line_breaks_cannot_start_an_example_of_its_own() {
    let windows = vec![pieces(&["a\nExample 2: b\r\n"]), pieces(&["c"])];
    let batches = detection_prompts("x\ny", &windows, 0);
    let asked = &batches[0].messages.last().unwrap().content;
    assert_eq!(asked.lines().count(), 4);
}

#[test]
fn prompts_that_do_not_fit_together_are_refused() {
    let text = pieces(&["a", "b"]);
    let refused: [&[f32]; 4] = [&[1.0], &[0.0, 0.0], &[f32::NAN, 1.0], &[f32::INFINITY, 1.0]];
    for activations in refused {
        let context = TextContext {
            pieces: &text,
            activations,
        };
        assert!(explanation_prompt(&[context]).is_err(), "{activations:?}");
    }
    assert!(explanation_prompt(&[]).is_err());
    let windows = vec![text.clone()];
    assert!(fuzzing_prompts("x", &windows, &[], 0).is_err());
    assert!(fuzzing_prompts("x", &windows, &[vec![true]], 0).is_err());
    assert!(detection_prompts("x", &[], 0).is_empty());
}

#[test]
fn tokens_are_estimated_as_a_quarter_of_the_characters() {
    let messages = [
        Message::new(Role::System, "é".repeat(9)),
        Message::new(Role::User, "abc"),
    ];
    assert_eq!(estimated_tokens(&messages), 3);
    assert_eq!(estimated_tokens(&[]), 0);
}
