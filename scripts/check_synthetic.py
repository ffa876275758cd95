#!/usr/bin/env python3
"""Checks `lapidary synthetic` with SAELens: every metric agrees within 1e-3.

Known features, activations and dictionary are the same. A recipe is run with --data and --out.
SAELens loads the dictionary and encodes the activations. Its own metrics for synthetic data (mean
correlation coefficient, uniqueness, latents as detectors of features) are compared with ours.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sae_lens import SAE
    from sae_lens.synthetic.evals import compute_classification_metrics, feature_uniqueness, mean_correlation_coefficient

TOLERANCE = 1e-3


def check(lapidary, recipe, changes, scratch):
    data, out = Path(scratch, "data.safetensors"), Path(scratch, "out")
    settings = [part for change in changes for part in ("--set", change)]
    command = [lapidary, "synthetic", recipe, *settings, "--rows", "5000", "--device", "cpu", "--out", out, "--data", data]
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"check_synthetic: {' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}")
    ours = json.loads((out / "recovery.json").read_text())
    tensors = load_file(data)
    directions, x = torch.from_numpy(tensors["directions"]), torch.from_numpy(tensors["activations"])
    truth = torch.zeros(len(x), len(directions))
    used = tensors["feature_indices"] >= 0
    row = np.broadcast_to(np.arange(len(x))[:, None], used.shape)[used]
    truth[row, tensors["feature_indices"][used]] = torch.from_numpy(tensors["feature_values"][used])

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        sae = SAE.load_from_disk(str(out / "dictionary"))
        latents = sae.encode(x)
        x_hat = sae.decode(latents)
        detectors = compute_classification_metrics(latents, truth, sae.W_dec, directions)
    norm = x.norm(dim=-1)
    theirs = {
        "mcc": mean_correlation_coefficient(directions, sae.W_dec.detach()),
        "uniqueness": feature_uniqueness(sae.W_dec.detach(), directions),
        "precision": detectors.precision,
        "recall": detectors.recall,
        "f1_score": detectors.f1_score,
        "accuracy": detectors.accuracy,
        "true_l0": (truth != 0).float().sum(dim=1).mean().item(),
        "l0": (latents != 0).float().sum(dim=1).mean().item(),
        "dead_latents": float((latents == 0).all(dim=0).sum()),
        "shrinkage": (x_hat.norm(dim=-1)[norm > 1e-6] / norm[norm > 1e-6]).mean().item(),
    }
    failed = False
    print(f"{recipe} {' '.join(changes)}")
    for name, wanted in theirs.items():
        good = abs(ours[name] - wanted) <= TOLERANCE * max(1.0, abs(wanted))
        failed |= not good
        print(f"  {name:14} {ours[name]:10.6f}   SAELens {wanted:10.6f}{'' if good else '   MISMATCH'}")
    return failed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/check_synthetic.py --lapidary target/debug/lapidary",
    )
    parser.add_argument("--lapidary", type=Path, default="lapidary", help="the binary (default: the one on the path)")
    arguments = parser.parse_args()
    recipe = Path(__file__).parent.parent / "configs/synthetic/topk.toml"
    runs = [
        ["training.tokens=200000"],
        ["training.tokens=200000", "synthetic.kind=correlated", "synthetic.density_skew=0.5", "coder.d_sae=192", "synthetic.noise=0.05"],
        ["training.tokens=200000", "synthetic.kind=hierarchical", "coder.d_sae=12", "coder.k=1"],
    ]
    failed = False
    for changes in runs:
        with tempfile.TemporaryDirectory() as scratch:
            failed |= check(arguments.lapidary, recipe, changes, scratch)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
