#!/usr/bin/env python3
"""Checks that SAELens loads our dictionaries and gives the same latents and reconstructions.

SAE.load_from_disk loads DIR/dictionary (cfg.json, sae_weights.safetensors); a warning counts as a
failure. Activations come from `lapidary run` unless a file is given. `lapidary encode` and SAELens
must agree within 1e-4 of the largest value. At the end SAELens saves the dictionary again, and
`lapidary encode` must give the same codes with that copy. If a pre-activation is within the
tolerance of the value at which its latent is chosen, both choices are right. Such latents are
counted.
"""

import argparse
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

TOLERANCE = 1e-4
TEXT = (
    "Mr. Speaker, Mr. Vice President, Members of Congress, and my fellow citizens: It is my duty to report to you on the "
    "state of the Union. Our farms and our factories are at work, our treasury is sound, and we are at peace with every "
    "nation. Yet there is much that remains to be done, and I ask you to act this year on three great matters."
)


def run(command):
    """Runs our command, and shows its output if it fails."""
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"check_saelens: {' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}")


def load(folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sae = SAE.load_from_disk(str(folder))
    if caught:
        sys.exit(f"check_saelens: SAELens warns about {folder}: {caught[0].message}")
    return sae


def activations_of(path, d_in, hook):
    """The tensor named after the hook point, or the only tensor, `[n, d_in]`."""
    tensors = load_file(path)
    if hook not in tensors and len(tensors) != 1:
        sys.exit(f"check_saelens: {path}: found tensors {sorted(tensors)}, expected {hook}")
    rows = tensors.get(hook, next(iter(tensors.values()))).astype(np.float32)
    if rows.shape[-1] != d_in:
        sys.exit(f"check_saelens: {path}: found width {rows.shape[-1]}, expected {d_in}")
    return rows.reshape(-1, d_in)


def encode(binary, dictionary, activations, folder):
    """Runs `lapidary encode`: dense latents `[n, d_sae]` and reconstruction `[n, d_out]`."""
    out = Path(folder, "codes.safetensors")
    run([binary, "encode", "--dictionary", dictionary, "--activations", activations, "--out", out])
    codes = load_file(out)
    return codes["values"].astype(np.float32), codes["indices"].astype(np.int64), codes["reconstruction"].astype(np.float32)


def dense(values, indices, d_sae):
    rows = np.zeros((len(values), d_sae), np.float32)
    if not ((indices >= -1) & (indices < d_sae)).all():
        sys.exit(f"check_saelens: an index is outside -1..{d_sae}")
    used = (indices >= 0) & (values != 0)
    row = np.broadcast_to(np.arange(len(values))[:, None], indices.shape)[used]
    np.add.at(rows, (row, indices[used]), values[used])
    return rows


def boundary(sae, theirs):
    """The value that a latent must exceed to be chosen: `[n, d_sae]`, or one that broadcasts."""
    if sae.cfg.architecture() == "topk":
        return np.sort(theirs, axis=1)[:, -sae.cfg.k][:, None]
    if sae.cfg.architecture() in ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        return sae.threshold.detach().numpy()[None, :]
    if sae.cfg.architecture() == "gated":  # the value at which its gate opens
        least = sae.b_mag - torch.exp(sae.r_mag) * sae.b_gate
        return np.maximum(least.detach().numpy(), 0)[None, :]
    return np.zeros((1, 1), np.float32)


class Verdict:
    """Collects comparisons, prints each of them and remembers failures."""

    def __init__(self):
        self.failed = False

    def compare(self, what, found, wanted):
        if found.shape != wanted.shape:
            self.require(False, f"{what}: found shape {list(found.shape)}, expected {list(wanted.shape)}")
            return
        scale = float(np.abs(wanted).max()) or 1.0
        difference = float(np.abs(found - wanted).max()) / scale
        good = difference <= TOLERANCE
        print(f"  {what}: largest difference {difference:.1e} of {scale:.4g}{'' if good else '   MISMATCH'}")
        self.failed |= not good

    def require(self, good, what):
        if not good:
            print(f"  {what}   MISMATCH")
            self.failed = True


def check(sae, rows, codes, verdict):
    values, indices, reconstruction = codes
    with torch.no_grad():
        theirs = sae.encode(torch.from_numpy(rows)).numpy()
        ours = dense(values, indices, sae.cfg.d_sae)
        decoded = sae.decode(torch.from_numpy(ours))
        if hasattr(sae, "W_skip"):  # `decode` has no input for the skip, which `forward` adds
            decoded = decoded + torch.from_numpy(rows) @ sae.W_skip.T
        decoded, whole = decoded.numpy(), sae.forward(torch.from_numpy(rows)).numpy()

    scale = float(np.abs(theirs).max()) or 1.0
    near = np.abs(np.maximum(ours, theirs) - boundary(sae, theirs)) <= TOLERANCE * scale
    either = ((ours == 0) != (theirs == 0)) & near
    active = int((theirs != 0).sum())
    print(f"  {len(rows)} activations, {active / max(len(rows), 1):.1f} latents active in each, {int(either.sum())} chosen either way")
    verdict.require(active > 0, "no latent is active")
    verdict.require(either.sum() <= 1 + active // 1000, f"{int(either.sum())} of {active} latents on the boundary")
    verdict.compare("encode", np.where(either, theirs, ours), theirs)
    verdict.compare("decode", reconstruction, decoded)
    if not either.any():
        verdict.compare("both", reconstruction, whole)


def check_directory(directory, arguments, scratch, verdict):
    """Checks one dictionary: SAELens loads it, uses it on activations and saves it again."""
    dictionary = directory / "dictionary"
    sae = load(dictionary)
    hook = sae.cfg.metadata.hook_name
    print(f"{dictionary}: {sae.cfg.architecture()}, d_in {sae.cfg.d_in}, d_sae {sae.cfg.d_sae}, {hook}")
    activations = arguments.activations
    if activations is None:
        activations = Path(scratch, "activations.safetensors")
        model = arguments.model or sae.cfg.metadata.model_name
        run([arguments.lapidary, "run", "--model", model, "--text", arguments.text, "--capture", hook, "--out", activations])
    rows = activations_of(activations, sae.cfg.d_in, hook)
    codes = encode(arguments.lapidary, dictionary, activations, scratch)
    check(sae, rows, codes, verdict)

    print("  written anew by SAELens:")
    sae.save_model(Path(scratch, "anew"))
    again = encode(arguments.lapidary, Path(scratch, "anew"), activations, scratch)
    same = all(np.array_equal(before, after) for before, after in zip(codes, again))
    verdict.require(same, "lapidary encode gives something else")
    if same:
        print("  lapidary encode gives the same bits")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/check_saelens.py out/quickstart --lapidary target/debug/lapidary",
    )
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="output of `lapidary train`, with dictionary/ inside")
    parser.add_argument("--lapidary", type=Path, default="lapidary", help="the binary (default: the one on the path)")
    parser.add_argument("--activations", type=Path, help="safetensors with rows to encode (default: made with `lapidary run`)")
    parser.add_argument("--model", help="what `lapidary run` runs (default: the dictionary's metadata.model_name)")
    parser.add_argument("--text", default=TEXT, help="what it runs it on")
    arguments = parser.parse_args()

    verdict = Verdict()
    for directory in arguments.directories:
        with tempfile.TemporaryDirectory() as scratch:
            check_directory(directory, arguments, scratch, verdict)
    sys.exit(1 if verdict.failed else 0)


if __name__ == "__main__":
    main()
