"""Writes what SAELens computes with the small SAELens dictionaries of tests/fixtures/dictionaries.

    python scripts/make_saelens_expected.py

The results for some inputs are in expected.safetensors beside each dictionary.
"""

from pathlib import Path

import torch
from sae_lens import SAE
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parent.parent / "tests/fixtures/dictionaries"
NAMES = ["cfg-with-nan", "flat-cfg-without-architecture", "saelens5-topk"]


def main():
    x = torch.tensor([((i * 37 + 77) % 64) / 16 - 2 for i in range(5 * 12)]).reshape(5, 12)
    for name in NAMES:
        sae = SAE.load_from_disk(FOLDER / name, device="cpu")
        with torch.no_grad():
            codes = sae.encode(x)
            reconstruction = sae.decode(codes)
        values = {"x": x, "codes": codes.contiguous(), "reconstruction": reconstruction.contiguous()}
        save_file(values, FOLDER / name / "expected.safetensors")


if __name__ == "__main__":
    main()
