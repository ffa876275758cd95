"""Makes tests/fixtures/corpora.

    python scripts/make_corpus_fixtures.py

The Parquet files have texts as strings, large strings, string views, bytes and categories, as
pyarrow, pandas and polars write them. Two others have texts of two clearly different classes, with
and without nulls.
"""

from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent.parent / "tests/fixtures/corpora"
TEXTS = ["one", "two", "one", None, "three"]


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    columns = {
        "strings": pa.array(TEXTS, pa.string()),
        "large_strings": pa.array(TEXTS, pa.large_string()),
        "views": pa.array(TEXTS, pa.string_view()),
        "binary": pa.array([text and text.encode() for text in TEXTS], pa.binary()),
        "no_text": pa.array([b"caf\xc3\xa9", b"caf\xe9"], pa.binary()),
        "all_null": pa.nulls(2),
    }
    for name, column in columns.items():
        pq.write_table(pa.table({"text": column}), HERE / f"{name}.parquet")
    frame = pd.DataFrame({"text": pd.Categorical(TEXTS)})
    frame.to_parquet(HERE / "categories.parquet")
    frame = pl.DataFrame({"text": pl.Series(TEXTS, dtype=pl.Categorical)})
    frame.write_parquet(HERE / "polars_categories.parquet")
    labels = ["az"[i % 2] for i in range(120)]
    texts = [" ".join([{"a": "apple", "z": "zebra"}[label]] * 20) for label in labels]
    pq.write_table(pa.table({"text": texts, "label": labels}), HERE / "labels.parquet")
    pd.DataFrame({"text": texts, "label": pd.Categorical(labels)}).to_parquet(HERE / "labels_categories.parquet")
    # Some rows lack one column. A reader that skips only that column would shift the pairs.
    for i in [25, 35, 41, 47, 52, 57, 71, 75, 97, 105, 109]:
        texts[i] = None
    for i in [3, 41, 88]:
        labels[i] = None
    pq.write_table(pa.table({"text": texts, "label": labels}), HERE / "labels_nulls.parquet")
    for path in sorted(HERE.glob("*.parquet")):
        types = ", ".join(str(field.type) for field in pq.read_schema(path))
        print(f"{path.name:<26} {types:<60} {path.stat().st_size} bytes")


main()
