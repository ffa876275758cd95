//! What tests of several files ask of `metrics.jsonl`.

/// The log without what depends on the clock: the rest is the same in every run of a recipe.
pub fn without_clock(log: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(log).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        let object = line.as_object_mut().unwrap();
        for key in ["seconds", "tokens_per_second"] {
            assert!(object.remove(key).unwrap().is_number());
        }
        format!("{line}\n")
    };
    text.lines().map(line).collect::<String>().into_bytes()
}
