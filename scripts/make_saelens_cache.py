"""Writes tests/fixtures/saelens_cache/, which SAELens's CacheActivationsRunner fills.

Usage: make_saelens_cache.py [FOLDER]

The activations are those of a tiny random model, in two dtypes. `expected.safetensors` has the same
rows as the datasets library reads them. Needs no network.
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import sae_lens.cache_activations_runner as runner
import torch
from safetensors.numpy import save_file
from sae_lens.config import CacheActivationsRunnerConfig
from transformer_lens import HookedTransformer, HookedTransformerConfig

CONTEXT, D = 8, 8


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=1, d_model=D, n_ctx=CONTEXT, d_head=4, n_heads=2, d_vocab=50, act_fn="gelu", seed=0, device="cpu"
        )
    )
    runner.load_model = lambda **_: model
    tokens = datasets.Dataset.from_dict({"input_ids": torch.randint(0, 50, (64, CONTEXT)).tolist()})
    for dtype, size in [("float32", 4), ("float16", 2)]:
        config = CacheActivationsRunnerConfig(
            dataset_path="random",
            model_name="tiny",
            model_batch_size=4,
            hook_name="blocks.0.hook_resid_post",
            d_in=D,
            training_tokens=16 * CONTEXT,
            context_size=CONTEXT,
            new_cached_activations_path=str(folder / dtype),
            shuffle=False,
            dtype=dtype,
            device="cpu",
            buffer_size_gb=8 * CONTEXT * D * size / 1e9,  # two buffers, so two files
            prepend_bos=False,
            streaming=False,
        )
        cached = runner.CacheActivationsRunner(config, override_dataset=tokens).run()
        if dtype == "float32":
            rows = np.array(cached["blocks.0.hook_resid_post"], dtype=np.float32).reshape(-1, D)
            save_file({"rows": rows}, folder / "expected.safetensors")


if __name__ == "__main__":
    default = Path(__file__).parent.parent / "tests" / "fixtures" / "saelens_cache"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
