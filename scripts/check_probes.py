#!/usr/bin/env python3
"""Checks `lapidary probe` against SAEBench's sparse probing and scikit-learn on the same samples.

The presidents of the embedded corpus are told apart by a dictionary's latents; SAEBench's own functions choose the latents and train
the probes. The latents must be the same (but for ties), and accuracies within two texts of each other: the solvers stop at different
places near the least value, and a text may lie on the boundary.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

warnings.simplefilter("ignore")

import sae_bench.sae_bench_utils.dataset_info as labels_of  # noqa: E402
from sae_bench.evals.sparse_probing.probe_training import (  # noqa: E402
    apply_topk_mask_reduce_dim,
    get_top_k_mean_diff_mask,
    train_sklearn_probe,
)


def theirs(train, test, labels, k):
    """The places that they choose, and the accuracy of a probe on those; on all if k is None."""
    places = None
    if k is not None:
        mask = get_top_k_mean_diff_mask(train, labels[0], k)
        places = set(torch.nonzero(~mask).flatten().tolist())
        train, test = (apply_topk_mask_reduce_dim(part, mask) for part in (train, test))
    return places, train_sklearn_probe(train, labels[0], test, labels[1])[1]


def check(lapidary, run_folder, passages, scratch):
    data, out = Path(scratch, "data.safetensors"), Path(scratch, "probe.json")
    command = [lapidary, "probe", run_folder, "--task", "embedded", "--label-field", "president", "--passages", passages,
               "--device", "cpu", "--data", data, "--out", out]  # fmt: skip
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"check_probes: {' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}")
    samples, failed = load_file(data), False
    print(run_folder)
    for place, ours in enumerate(json.loads(out.read_text())):
        picked = [samples[f"{part}.samples.{place}"].long() for part in ("train", "test")]
        labels = []
        for rows in picked:
            half = torch.full((len(rows) // 2,), labels_of.POSITIVE_CLASS_LABEL)
            labels.append(torch.cat([half, torch.full_like(half, labels_of.NEGATIVE_CLASS_LABEL)]))
        for kind, name in (("latents", "sae"), ("activations", "llm")):
            parts = [samples[f"{part}.{kind}"][rows] for part, rows in zip(("train", "test"), picked)]
            figures = [(None, ours[f"{name}_test_accuracy"], None)]
            figures += [(top["k"], top[f"{name}_test_accuracy"], top["latents"]) for top in ours["top_k"]]
            for k, found, latents in figures:
                places, wanted = theirs(*parts, labels, k)
                good = abs(found - wanted) * ours["test_texts"] <= 2.01
                if kind == "latents" and k is not None:
                    good &= places == set(latents)
                failed |= not good
                print(f"  {ours['class'][:24]:24} {kind:11} k {k or 'all':>3} {found:8.4f}   SAEBench {wanted:8.4f}{'' if good else '   MISMATCH'}")
    return failed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/check_probes.py out/quickstart --lapidary target/debug/lapidary",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="output of `lapidary train` on the embedded model")
    parser.add_argument("--lapidary", type=Path, default="lapidary", help="the binary (default: the one on the path)")
    parser.add_argument("--passages", type=int, default=5, help="passages of a speech (default: 5)")
    arguments = parser.parse_args()
    failed = False
    for folder in arguments.runs:
        with tempfile.TemporaryDirectory() as scratch:
            failed |= check(arguments.lapidary, folder, arguments.passages, scratch)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
