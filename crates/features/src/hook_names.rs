//! Hook points in words.

use lapidary_model::HookPoint;

/// Hook points as they are shown.
pub fn names(hooks: &[HookPoint]) -> String {
    let names: Vec<String> = hooks.iter().map(ToString::to_string).collect();
    names.join(", ")
}
