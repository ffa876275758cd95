#!/usr/bin/env python3
"""Checks `lapidary sae-probes` with the Python package sae-probes: test AUCs agree within 1e-3.

    scripts/check_sae_probes.py --lapidary target/debug/lapidary out
    scripts/check_sae_probes.py --lapidary target/debug/lapidary my-dictionary --model ./smollm2 --only 131_temp_cat_Typical_Time

The command probes some of the package's data sets and keeps activations and latents (--cache). The
package gets the same numbers, and probes k latents with its own functions, for both penalties and
for two of its settings. Rows and solvers must be the same, and the chosen latents too, except for
latents with equal scores. There, the package probes ours. The package needs to be installed
(scripts/setup_python.sh installs it).
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

import numpy as np
import polars
import torch
from safetensors.numpy import load_file

warnings.simplefilter("ignore")
# The package imports it; no probe here uses it.
sys.modules.setdefault("xgboost", types.ModuleType("xgboost"))

TOLERANCE = 1e-3
HOOK, MODEL = "blocks.0.hook_resid_post", "model"  # names for the package's own cache
KS = {"normal": [1, 2, 8, 32, 128], "scarcity": [16]}
SIZES = [10, 143]  # training rows in the setting scarcity


class Table:
    """A dictionary whose latents were computed once, so that both sides see the same numbers."""

    def __init__(self, activations, latents):
        self.rows = {row.numpy().tobytes(): i for i, row in enumerate(activations)}
        self.latents = latents

    def encode(self, batch):
        return self.latents[[self.rows[row.numpy().tobytes()] for row in batch]]


def ours(arguments, data, setting, reg, cache, out):
    command = [arguments.lapidary, "sae-probes", arguments.dictionary, "--data", data, "--only", ",".join(arguments.only),
               "--setting", setting, "--reg", reg, "--k", ",".join(map(str, KS[setting])), "--no-baseline", "--cache", cache,
               "--out", out, "--device", "cpu"]  # fmt: skip
    if arguments.model:
        command += ["--model", arguments.model]
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"check_sae_probes: {' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}")
    return polars.read_parquet(out)


class Ranking:
    """Stands in for the package's ranking of latents: it puts our latents first, if they are as good as its own.

    The package ranks in f32, and sorts latents with equal scores as it comes. So latents that only one side chose must
    have the score of the last one that was chosen, up to rounding.
    """

    def __init__(self, evals):
        self.package, self.ours, self.worse, self.others = evals.get_sorted_indices, [], [], 0
        evals.get_sorted_indices = self

    def __call__(self, x, y, normalize):
        theirs = self.package(x, y, normalize).tolist()
        x, y = (normalize(x) if normalize else x).double(), torch.as_tensor(y)
        score = (x[y == 1].mean(0) - x[y == 0].mean(0)).abs()
        for k in range(1, len(self.ours) + 1):
            last = min(score[theirs[k - 1]], score[self.ours[k - 1]])
            different = set(self.ours[:k]) ^ set(theirs[:k])
            self.others += len(different) // 2
            self.worse += [latent for latent in different if abs(score[latent] - last) > 1e-5 * last]
        rest = set(self.ours)
        return torch.tensor(self.ours + [latent for latent in theirs if latent not in rest])


def theirs(evals, name, table, setting, reg, cache, scratch, **options):
    """The package's test AUCs by k."""
    with tempfile.TemporaryDirectory(dir=scratch) as results:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            evals.run_sae_eval(sae=table, dataset=name, hook_name=HOOK, reg_type=reg, setting=setting, model_name=MODEL,
                               model_cache_path=cache, device="cpu", ks=KS[setting], results_path=results, seed=42, **options)  # fmt: skip
        found = [figure for file in Path(results).rglob("*.json") for figure in json.loads(file.read_text())]
    return {figure["k"]: figure["test_auc"] for figure in found}


def check(arguments, scratch):
    folder = Path(importlib.util.find_spec("sae_probes").submodule_search_locations[0])
    evals = importlib.import_module("sae_probes.run_sae_evals")
    ranking = Ranking(evals)
    failed, worst, compared = False, 0.0, 0
    cache = scratch / "cache"
    tables = {}
    for setting in KS:
        for reg in ("l1", "l2"):
            found = ours(arguments, folder, setting, reg, cache, scratch / "probes.parquet")
            for name in arguments.only:
                if name not in tables:
                    tensors = load_file(cache / f"{name}.safetensors")
                    activations = torch.from_numpy(tensors["activations"])
                    values = tensors["latent_values"]
                    indices = tensors["latent_indices"].reshape(values.shape)
                    # Short rows are padded with the number of latents: a column of zeros, which no
                    # one chooses.
                    latents = np.zeros((len(values), int(indices.max()) + 1), np.float32)
                    latents[np.arange(len(values))[:, None], indices] = values
                    tables[name] = Table(activations, torch.from_numpy(latents))
                    own = scratch / f"model_activations_{MODEL}"
                    own.mkdir(exist_ok=True)
                    torch.save(activations, own / f"{name}_{HOOK}.pt")
                sizes = [None] if setting == "normal" else SIZES
                for size in sizes:
                    options = {} if size is None else {"num_train": size}
                    rows = found.filter(polars.col("dataset") == name)
                    if size is not None:
                        rows = rows.filter(polars.col("num_train") == size)
                    ranking.ours = json.loads(rows.sort("k")["indices"][-1])
                    expected = theirs(evals, name, tables[name], setting, reg, scratch, scratch, **options)
                    for k, auc in rows.select("k", "test_auc").iter_rows():
                        difference = abs(auc - expected[k])
                        worst, compared = max(worst, difference), compared + 1
                        bad = difference > TOLERANCE
                        failed |= bad
                        rows_said = "" if size is None else f", {size} rows"
                        print(f"  {name:32} {setting}{rows_said}, {reg}, k {k:>3}: {auc:.4f}  sae-probes {expected[k]:.4f}"
                              f"{'   MISMATCH' if bad else ''}")  # fmt: skip
    if not compared:
        sys.exit("check_sae_probes: compared nothing")
    print(f"{compared} test AUCs compared, largest difference {worst:.6f}; {ranking.others} latents chosen in place of equally good ones")
    if ranking.worse:
        print(f"latents chosen that are not as good as the package's: {sorted(set(ranking.worse))}")
    return failed or bool(ranking.worse)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dictionary", help="a run's folder, or a dictionary")
    parser.add_argument("--lapidary", default="target/debug/lapidary")
    parser.add_argument("--model", help="language model; default: the one that the dictionary names")
    parser.add_argument("--only", nargs="+", default=["114_nyc_borough_Manhattan"], help="names of data sets")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(check(arguments, Path(scratch)))


if __name__ == "__main__":
    main()
