//! The residual stream as each head alone reads it (`hook_attn_in`, `hook_q_input`, `hook_k_input`,
//! `hook_v_input`): what is changed there changes one head's query, key or value and nothing else.
//!
//! As long as nobody changes them, all heads read one stream, and these points are copies of it. A
//! head whose input is changed normalizes its own; what is done at `ln1`'s points does not reach it
//! then.

use super::Pass;
use crate::hook::{BlockHook, HookPoint};
use crate::weights::{Layer, Linear};
use burn::tensor::Tensor;

/// What the heads' own inputs are for.
pub(super) enum Split {
    /// They are read instead of the common one.
    Instead(Tensor<2>),
    /// They are the common one; only their gradient is wanted.
    Beside(Tensor<2>),
}

/// The heads' own inputs for queries, keys and values, `[n, heads * d_model]`, where they matter;
/// `None` once everything asked for has been captured.
pub(super) fn inputs(pass: &mut Pass<'_>, l: usize, x: &Tensor<2>) -> Option<[Option<Split>; 3]> {
    let at = |hook| HookPoint::Block(l, hook);
    let (heads, kv_heads) = (pass.c.n_heads, pass.c.n_kv_heads);
    let common = at(BlockHook::AttnIn);
    // A copy that is only differentiated at must not carry the stream's own gradient a second time.
    let of_heads = |n: usize, changed: bool| {
        let x = if changed {
            x.clone()
        } else {
            x.clone().detach()
        };
        x.repeat(&[1, n]) // [n, heads * d_model]
    };
    let common_changed = pass.hooks.changes(common);
    let mut of_all = None;
    if pass.hooks.wants(common) {
        let value = of_heads(heads, common_changed);
        of_all = Some(pass.hooks.visit(common, Some(heads), value)?);
    }
    let mut split = [None, None, None];
    let points = [
        (BlockHook::QInput, heads),
        (BlockHook::KInput, kv_heads),
        (BlockHook::VInput, kv_heads),
    ];
    for (place, (hook, n)) in split.iter_mut().zip(points) {
        let at = at(hook);
        if of_all.is_none() && !pass.hooks.wants(at) {
            continue;
        }
        let changed = common_changed || pass.hooks.changes(at);
        let value = match (&of_all, changed && !common_changed) {
            (Some(value), false) => value.clone(),
            (Some(value), true) => value.clone() + (x.clone() - x.clone().detach()).repeat(&[1, n]),
            (None, _) => of_heads(n, changed),
        };
        let value = pass.hooks.visit(at, Some(n), value)?;
        let differentiated = pass.hooks.differentiates(common) || pass.hooks.differentiates(at);
        *place = match (changed, differentiated) {
            (true, _) => Some(Split::Instead(value)),
            (false, true) => Some(Split::Beside(value)),
            (false, false) => None,
        };
    }
    Some(split)
}

/// Queries, keys and values, `[n, heads * d_head]`, once the heads' own inputs have had their part
/// in them.
pub(super) fn outputs(
    pass: &Pass<'_>,
    layer: &Layer,
    split: [Option<Split>; 3],
    from_common: [Tensor<2>; 3],
) -> [Tensor<2>; 3] {
    if split.iter().all(Option::is_none) {
        return from_common;
    }
    let maps = layer.q_k_v(pass.c.n_heads * pass.c.d_head);
    let mut parts = split.into_iter().zip(maps);
    from_common.map(|common| match parts.next() {
        Some((Some(Split::Instead(input)), map)) => of_own(pass, layer, &map, input),
        Some((Some(Split::Beside(input)), map)) => {
            let own = of_own(pass, layer, &map, input);
            common + (own.clone() - own.detach())
        }
        _ => common,
    })
}

/// Each head's input, `[n, heads * d_model]`, normalized and through its own columns of a matrix.
fn of_own(pass: &Pass<'_>, layer: &Layer, map: &Linear, input: Tensor<2>) -> Tensor<2> {
    let (d_model, d_head) = (pass.c.d_model, pass.c.d_head);
    let [n, width] = input.dims();
    let heads = width / d_model;
    let rows = input.reshape([n * heads, d_model]);
    let rows = pass.plainly_normalized(&layer.ln1, rows);
    let rows = rows.reshape([n, heads, d_model]).swap_dims(0, 1); // [heads, n, d_model]
    let matrix = map
        .weight
        .clone()
        .reshape([d_model, heads, d_head])
        .swap_dims(0, 1);
    let own = rows.matmul(matrix).swap_dims(0, 1); // [n, heads, d_head]
    let own = own.reshape([n, heads * d_head]);
    match &map.bias {
        Some(bias) => own + bias.clone().unsqueeze(),
        None => own,
    }
}
