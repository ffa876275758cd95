#!/usr/bin/env python3
"""Checks `lapidary probe` and `lapidary absorption` with SAEBench and scikit-learn.

All use the same samples. Probes classify the presidents of the embedded corpus by the latents of a
dictionary. SAEBench's own functions choose the latents and train the probes. The latents must be
the same, except for ties. The accuracies must be within two texts of each other: the solvers stop
at different places near the minimum, and a text may lie on the boundary.

For absorption, SAEBench's own calculator gets our activations, probe and latents. It must find the
same absorption for each word of the first-letter task.
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
from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator  # noqa: E402
from sae_bench.evals.sparse_probing.probe_training import (  # noqa: E402
    apply_topk_mask_reduce_dim,
    get_top_k_mean_diff_mask,
    train_sklearn_probe,
)
from sae_lens import SAE  # noqa: E402


def run(command):
    """Runs our command, and shows its output if it fails."""
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"check_probes: {' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}")


def theirs(train, test, labels, k):
    """The latents that SAEBench chooses, and the accuracy of a probe on them (k None: on all)."""
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
    run(command)
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


class Words:
    """The part of a model that SAEBench's calculator uses. A prompt is the row number of a word."""

    def __init__(self, activations):
        self.activations = activations

    def to_tokens(self, text):
        return [[0]]

    def run_with_cache(self, prompts, names_filter):
        rows = [int(prompt.strip().removeprefix("w").removesuffix(":")) for prompt in prompts]
        return None, {names_filter[0]: self.activations[rows][:, None].expand(-1, 2, -1)}


def check_absorption(lapidary, run_folder, words, scratch):
    data, out = Path(scratch, "absorption.safetensors"), Path(scratch, "absorption.json")
    run([lapidary, "absorption", run_folder, "--words", words, "--device", "cpu", "--data", data, "--out", out])
    with torch.no_grad():
        sae = SAE.load_from_disk(str(run_folder / "dictionary"))
    samples, failed, count, absorbed = load_file(data), False, 0, 0
    calculator = FeatureAbsorptionCalculator(model=Words(samples["activations"]), icl_word_list=[], max_icl_examples=0)
    for letter in json.loads(out.read_text())["details"]:
        name = letter["letter"]
        rows = samples[f"{name}.words"].tolist()
        if not rows:
            continue
        results = calculator.calculate_absorption(
            sae, [f"w{row}" for row in rows], samples[f"{name}.direction"], letter["split_features"], layer=0, show_progress=False
        )
        ours = zip(samples[f"{name}.fraction"].tolist(), samples[f"{name}.full"].tolist())
        for result, (fraction, full) in zip(results.word_results, ours):
            good = abs(result.absorption_fraction - fraction) <= 1e-3 and result.is_full_absorption == bool(full)
            count, absorbed, failed = count + 1, absorbed + full, failed or not good
            if not good:
                print(f"  {name}: {fraction} {full}, SAEBench {result.absorption_fraction} {result.is_full_absorption}   MISMATCH")
    print(f"  absorption of {count} words, {absorbed} in full{'' if failed else ', as SAEBench finds it'}")
    return failed or count == 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/check_probes.py out/quickstart --lapidary target/debug/lapidary",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="output of `lapidary train` on the embedded model")
    parser.add_argument("--lapidary", type=Path, default="lapidary", help="the binary (default: the one on the path)")
    parser.add_argument("--passages", type=int, default=5, help="passages of a speech (default: 5)")
    parser.add_argument("--words", type=int, default=600, help="words of the first-letter task (default: 600)")
    arguments = parser.parse_args()
    failed = False
    for folder in arguments.runs:
        with tempfile.TemporaryDirectory() as scratch:
            failed |= check(arguments.lapidary, folder, arguments.passages, scratch)
            failed |= check_absorption(arguments.lapidary, folder, arguments.words, scratch)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
