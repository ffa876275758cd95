#!/usr/bin/env python3
"""Checks `lapidary eval` with sae-bench's core evaluation: every metric agrees within 1e-3.

Model, tokens and dictionary are the same. The embedded model runs in TransformerLens, and SAELens
loads the dictionary. sae-bench's own run_evals gets the blocks of tokens that `lapidary harvest`
writes. The metrics of each latent are compared too. If a pre-activation is very near the threshold,
or two are nearly equal at the place where the top k end, the two programs may differ by a token.
This is within the tolerance, except for the consistent activation heuristic of a latent that fires
in few blocks. So a few latents, whose numbers of firings differ by exactly 1, may differ in it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import polars
import torch
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

warnings.simplefilter("ignore")
logging.disable_progress_bar()
sys.path.insert(0, str(Path(__file__).parent))

from make_model_fixtures import lens_of  # noqa: E402
from sae_bench.evals.core.eval_config import CoreEvalConfig  # noqa: E402
from sae_bench.evals.core.main import calculate_misc_metrics, run_evals  # noqa: E402
from sae_bench.sae_bench_utils.general_utils import load_and_format_sae  # noqa: E402
from sae_lens import SAE  # noqa: E402

TOLERANCE = 1e-3
MOST_OFF_BY_ONE = 4  # latents whose numbers of firings differ by 1: two pairs at the end of a top k
BATCH = 16  # blocks, as sae-bench recommends and `lapidary eval` uses
# Their name, and ours where it is another: two of theirs are not what they are called, and have a
# name of their own here.
NAMES = {"explained_variance": "explained_variance_saebench", "mse": "mse_saebench"}
LATENTS = (
    "feature_density",
    "consistent_activation_heuristic",
    "encoder_bias",
    "encoder_norm",
    "encoder_decoder_cosine_sim",
    "max_encoder_cosine_sim",
    "max_decoder_cosine_sim",
)


def run(command):
    """Runs our command, and shows its output if it fails."""
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"check_sae_bench: {' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}")
    return finished.stdout


class Blocks:
    """The part of SAELens's ActivationsStore that sae-bench uses: blocks of tokens, and a reset."""

    def __init__(self, tokens):
        self.tokens, self.at = tokens, 0
        self.context_size, self.store_batch_size_prompts = tokens.shape[1], BATCH

    def get_batch_tokens(self, n):
        self.at += n
        return self.tokens[self.at - n : self.at]

    def reset_input_dataset(self):
        self.at = 0


def theirs(model, dictionary, tokens, special):
    """Metrics of the dictionary and of each latent, from sae-bench."""
    _, sae, _ = load_and_format_sae("", SAE.load_from_disk(str(dictionary)), "cpu")
    batches = len(tokens) // BATCH
    config = CoreEvalConfig(
        batch_size_prompts=BATCH,
        n_eval_reconstruction_batches=batches,
        n_eval_sparsity_variance_batches=batches,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
    )
    groups, latents = run_evals(sae, Blocks(tokens), model, config, ignore_tokens=special)
    figures = {key: value for group in groups.values() for key, value in group.items() if not key.startswith("total_tokens")}
    return figures | calculate_misc_metrics(latents), latents


def close(found, wanted):
    """Whether two values agree within the tolerance, times the value if it is above 1."""
    return np.abs(found - wanted) <= TOLERANCE * np.maximum(1.0, np.abs(wanted))


def check(lapidary, run_folder, blocks, scratch):
    dictionary = run_folder / "dictionary"
    metadata = json.loads((dictionary / "cfg.json").read_text())["metadata"]
    context = metadata["context_size"]
    count = str(blocks * context)
    text = ("--corpus", "embedded:heldout", "--attend-across-documents")
    store, table, out = Path(scratch, "store"), Path(scratch, "latents.parquet"), Path(scratch, "metrics.json")
    run([lapidary, "harvest", "--model", "embedded", *text, "--hook", metadata["hook_name"], "--context", context,
         "--tokens", count, "--dtype", "f32", "--keep-special", *([] if metadata["prepend_bos"] else ["--no-bos"]), "--device", "cpu", "--out", store])  # fmt: skip
    tokens = np.concatenate([load_file(shard)["token_ids"] for shard in sorted(store.glob("shard-*.safetensors"))])
    tokens = torch.from_numpy(tokens.astype(np.int64)).reshape(-1, context)
    ours = json.loads(run([lapidary, "eval", run_folder, *text, "--tokens", count, "--device", "cpu", "--json",
                           "--out", out, "--latents", table]))  # fmt: skip

    folder = Path(__file__).parent.parent / "crates/model/embedded"
    model, _ = lens_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), n_ctx=context)
    config = AutoConfig.from_pretrained(folder)
    special = {token for token in (config.bos_token_id, config.eos_token_id, config.pad_token_id) if token is not None}
    counted = int((~torch.isin(tokens, torch.tensor(sorted(special)))).sum())
    print(f"{dictionary}: {len(tokens)} blocks of {context} tokens, {counted} counted")
    failed = counted != ours["tokens"]
    if failed:
        print(f"  found {ours['tokens']} counted tokens, expected {counted}   MISMATCH")

    figures, latents = theirs(model, dictionary, tokens, special)
    for name, wanted in figures.items():
        found = ours[NAMES.get(name, name)]
        good = bool(close(found, wanted))
        failed |= not good
        print(f"  {NAMES.get(name, name):32} {found:14.6f}   sae-bench {wanted:14.6f}{'' if good else '   MISMATCH'}")
    columns = polars.read_parquet(table)
    density = columns["feature_density"].to_numpy(), np.array(latents["feature_density"], np.float64)
    firings = [np.rint(each * counted) for each in density]
    off_by_one = np.abs(firings[0] - firings[1]) == 1
    if off_by_one.sum() > MOST_OFF_BY_ONE:
        failed = True
        print(f"  found {int(off_by_one.sum())} latents that fire once more or less, expected at most {MOST_OFF_BY_ONE}   MISMATCH")
    for name in LATENTS:
        found = columns[name].cast(polars.Float64).fill_null(float("nan")).to_numpy()
        wanted = np.array(latents[name], np.float64)
        same = close(found, wanted) | (np.isnan(found) & np.isnan(wanted))
        if name == "consistent_activation_heuristic":
            same |= off_by_one
        failed |= not same.all()
        print(f"  {name:32} of {len(found)} latents, {int((~same).sum())} differ{'' if same.all() else '   MISMATCH'}")
    return failed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/check_sae_bench.py out/quickstart --lapidary target/debug/lapidary",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="output of `lapidary train` on the embedded model")
    parser.add_argument("--lapidary", type=Path, default="lapidary", help="the binary (default: the one on the path)")
    parser.add_argument("--blocks", type=int, default=32, help=f"blocks of tokens, a multiple of {BATCH} (default: 32)")
    arguments = parser.parse_args()
    if arguments.blocks < BATCH or arguments.blocks % BATCH:
        parser.error(f"--blocks: found {arguments.blocks}, expected a multiple of {BATCH}")

    failed = False
    for folder in arguments.runs:
        with tempfile.TemporaryDirectory() as scratch:
            failed |= check(arguments.lapidary, folder, arguments.blocks, scratch)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
