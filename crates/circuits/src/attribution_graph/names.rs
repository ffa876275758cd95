//! What a graph's files say that the graph itself does not know.

/// What a graph's file says that the graph itself does not know.
pub struct GraphNames<'a> {
    /// The graph's short name.
    pub slug: String,
    /// What stands for the set of transcoders on Neuronpedia; the model's name otherwise.
    pub scan: String,
    /// The transcoders' names.
    pub transcoders: Vec<String>,
    /// The text of all tokens, that of the beginning of a sequence among them.
    pub prompt: String,
    /// The text of a token.
    pub token: &'a dyn Fn(u32) -> String,
    /// The tokens that a feature promotes most, if they are known; by the node's number.
    pub promoted: &'a dyn Fn(usize) -> Vec<u32>,
}
