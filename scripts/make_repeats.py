#!/usr/bin/env python3
"""Writes the text that the model tests/fixtures/models/repeats was trained on.

Each document is a list of 4 to 16 words, drawn without replacement from 40 made-up words ("ba",
"bu", "di"). The list comes up to eight times, and a document has at most 40 words. The files are
train.jsonl (30,000 documents) and held.jsonl (300).
"""

import argparse
import json
import random
from pathlib import Path

WORDS = [consonant + vowel for consonant in "bdfgklmn" for vowel in "aeiou"]


def write(path: Path, seed: int, documents: int) -> None:
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(documents):
            words = draw.sample(WORDS, draw.randint(4, 16))
            text = " " + " ".join((words * 8)[:40])
            file.write(json.dumps({"text": text}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/make_repeats.py repeats && cd repeats && "
        "lapidary pretrain ../configs/pretrain/repeats.toml --out model",
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="folder for the two files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write(out / "train.jsonl", 0, 30_000)
    write(out / "held.jsonl", 1, 300)


if __name__ == "__main__":
    main()
