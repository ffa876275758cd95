//! Training reads a text in passes.

use lapidary_codebook::{Data, Text};

#[test]
fn every_pass_over_a_text_reads_each_sequence_once() {
    let documents = [(0..100).collect::<Vec<u32>>()];
    let text = Text::new(&documents, &documents, 200, 10).unwrap();
    let data = Data::Text(text);
    // 101 tokens are 9 sequences a pass.
    let mut first = vec![];
    for step in 1..=3 {
        let batch = data.training(5, step, 3);
        assert_eq!(batch.inputs.len(), 30);
        first.extend(batch.targets.chunks(10).map(|t| t[0]));
        assert_eq!(batch, data.training(5, step, 3));
    }
    first.sort_unstable();
    first.dedup();
    assert_eq!(first.len(), 9);
}
