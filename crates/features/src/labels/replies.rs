//! What a language model's reply says: an explanation of a latent, or one prediction per window.

/// Most characters of an explanation.
pub const MAX_EXPLANATION: usize = 300;

const MARKER: &str = "[EXPLANATION]";

/// Reads `n` predictions from a reply: its last bracketed list of nothing but 0 and 1.
///
/// Text around the list and code fences do no harm. `None` if there is no such list or the last one
/// does not have exactly `n` entries.
pub fn parse_predictions(reply: &str, n: usize) -> Option<Vec<bool>> {
    let list = reply.rmatch_indices('[').find_map(|(start, _)| {
        let inside = &reply[start + 1..];
        // Cut at the next bracket of either kind: of nested lists only the innermost counts.
        let end = inside.find(['[', ']'])?;
        if inside.as_bytes()[end] == b'[' {
            return None;
        }
        inside[..end]
            .split(',')
            .map(|entry| match entry.trim() {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            })
            .collect::<Option<Vec<bool>>>()
    })?;
    (list.len() == n).then_some(list)
}

/// Reads an explanation from a reply: the first line after the last `[EXPLANATION]:`, or, without
/// that marker, the whole reply. It becomes one line of at most [`MAX_EXPLANATION`] characters.
/// `None` if nothing is left.
pub fn parse_explanation(reply: &str) -> Option<String> {
    let text = match reply.rfind(MARKER) {
        Some(start) => {
            let after = reply[start + MARKER.len()..].trim_start();
            let after = after.strip_prefix(':').unwrap_or(after).trim_start();
            after.lines().next().unwrap_or_default()
        }
        None => reply,
    };
    // Control characters would act on whatever terminal shows the label.
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let short: String = line.chars().take(MAX_EXPLANATION).collect();
    let short = short.trim_end();
    (!short.is_empty()).then(|| short.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_reply_reach_no_label() {
        let reply = "[EXPLANATION]: \u{1b}[31mred\u{7} words\u{1b}]0;title\u{7}";
        let label = parse_explanation(reply).unwrap();
        assert!(
            label.contains("red") && !label.contains(char::is_control),
            "{label:?}"
        );
    }

    #[test]
    fn predictions_are_read_through_text_and_code_fences() {
        let expected = Some(vec![true, false, false, true, true]);
        for reply in [
            "[1, 0, 0, 1, 1]",
            "[1,0,0,1,1]",
            "Sure! Here is the list:\n```json\n[1, 0, 0,\n 1, 1]\n```\nAnything else?",
            "Example [3] fits. **[1,0,0,1,1]**",
            "[[1, 0, 0, 1, 1]]",
            "First I thought [0,0,0,0,0], but then: [1,0,0,1,1].",
            "réponse : [ 1 ,0, 0, 1,1 ] ✓",
            "[1,0,0,1,1] (see [note] and [2]",
        ] {
            assert_eq!(parse_predictions(reply, 5), expected, "{reply}");
        }
        assert_eq!(parse_predictions("[0]", 1), Some(vec![false]));
    }

    #[test]
    fn replies_that_are_no_list_of_the_right_length_are_malformed() {
        for reply in [
            "",
            "[]",
            "[1, 0, 0, 1]",
            "[1, 0, 0, 1, 1, 0]",
            "[1, 0, 2, 1, 1]",
            "[1, 0, 0, 1, 1.0]",
            "[1, 0, 0, 1, 1,]",
            "[1 0 0 1 1]",
            "[yes, no, no, yes, yes]",
            "1, 0, 0, 1, 1",
            "[1, 0, 0, 1, 1",
            "The format is [1,0,0,1,1]; my answer: [1,0]",
        ] {
            assert_eq!(parse_predictions(reply, 5), None, "{reply}");
        }
        assert_eq!(parse_predictions(&"[".repeat(100_000), 5), None);
    }

    #[test]
    fn an_explanation_is_one_line_after_the_marker() {
        let parse = |reply| parse_explanation(reply).unwrap();
        assert_eq!(
            parse("[EXPLANATION]: Days of the week."),
            "Days of the week."
        );
        assert_eq!(
            parse("I look for [EXPLANATION].\n```\n[EXPLANATION]:\n Days  of\tthe week\n```\nDone"),
            "Days of the week"
        );
        assert_eq!(parse("  Days of\n the week \n"), "Days of the week");
        assert_eq!(parse("[EXPLANATION] Days"), "Days");
        for empty in ["", " \n ", "thoughts [EXPLANATION]:  \n"] {
            assert_eq!(parse_explanation(empty), None, "{empty}");
        }
    }

    #[test]
    fn a_long_explanation_is_cut_between_characters() {
        let long = parse_explanation(&"é".repeat(1000)).unwrap();
        assert_eq!(long.chars().count(), MAX_EXPLANATION);
    }
}
