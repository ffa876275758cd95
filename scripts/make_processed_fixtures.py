"""Writes tests/fixtures/processed: values at hook points of models that TransformerLens simplified.

    python scripts/make_processed_fixtures.py [OUT]

TransformerLens simplifies the models of tests/fixtures/models while it loads them. Each file has
`tokens` and, for each combination of TransformerLens's options, the values under `OPTIONS/HOOK`.
OPTIONS joins the names of the options that are on with `+`.
"""

import sys
from pathlib import Path

import torch
from make_model_fixtures import lens_config
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

OPTIONS = [
    ["center_writing_weights"],
    ["fold_ln"],
    ["center_unembed"],
    ["fold_value_biases"],
    ["center_writing_weights", "fold_value_biases"],
    ["fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"],
]
HOOKS = ["hook_embed", "attn.hook_v", "attn.hook_z", "hook_attn_out", "ln2.hook_normalized", "hook_mlp_out", "hook_resid_post"]


def main():
    root = Path(__file__).parent.parent / "tests/fixtures"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "processed"
    out.mkdir(parents=True, exist_ok=True)
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    for name in ("gpt2-sharded", "neox", "qwen2"):
        model = AutoModelForCausalLM.from_pretrained(root / "models" / name, dtype=torch.float32).eval()
        sizes, convert = lens_config(model)
        tokens = torch.tensor([[3, 1, 4, 15, 9, 2]])
        values = {"tokens": tokens}
        for options in OPTIONS:
            config = HookedTransformerConfig(n_ctx=32, d_vocab=model.config.vocab_size, seed=0, device="cpu", **sizes)
            lens = HookedTransformer(config)
            every = ["fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"]
            lens.load_and_process_state_dict(convert(model, config), **{option: option in options for option in every})
            with torch.no_grad():
                logits, cache = lens.run_with_cache(tokens)
            places = [hook if hook == "hook_embed" else f"blocks.1.{hook}" for hook in HOOKS]
            found = {place: cache[place] for place in places} | {"logits": logits}
            for place, value in found.items():
                values[f"{'+'.join(options)}/{place}"] = value[0].flatten(1).contiguous().clone()
        save_file(values, out / f"{name}.safetensors")


if __name__ == "__main__":
    main()
