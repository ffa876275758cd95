#!/usr/bin/env python3
"""Reads features.parquet and examples.parquet with polars, pandas (pyarrow) and DuckDB.

Checks that all three agree on row counts, sums and list lengths, and that the tables are
consistent.

Example: scripts/check_tables.py out/features
"""

import argparse
import math
import sys
from pathlib import Path

import duckdb
import pandas
import polars

FEATURES = {
    "sums": ["feature_id", "firing_count", "firing_density", "mean_activation", "max_activation", "std_activation",
             "quantile_25", "quantile_50", "quantile_75", "quantile_90", "quantile_99", "decoder_norm", "dead"],
    "numbers": ["relative_decoder_norms", "promoted_token_ids", "promoted_logits", "suppressed_token_ids", "suppressed_logits", "top_token_ids",
                "top_token_counts", "top_token_mean_activations"],
    "texts": ["promoted_tokens", "suppressed_tokens", "top_tokens"],
}
EXAMPLES = {
    "sums": ["feature_id", "rank", "max_activation", "peak_index", "document", "position"],
    "numbers": ["token_ids", "activations"],
    "texts": ["tokens"],
}


def by_polars(path, columns):
    table = polars.read_parquet(path)
    figures = {"rows": table.height}
    for name in columns["sums"]:
        figures[f"sum of {name}"] = table[name].cast(polars.Float64).sum()
    for name in columns["numbers"]:
        figures[f"sum of {name}"] = table[name].explode().cast(polars.Float64).sum() or 0.0
    for name in columns["texts"]:
        figures[f"entries of {name}"] = table[name].list.len().sum()
        figures[f"bytes of {name}"] = table[name].explode().str.len_bytes().sum() or 0
    return figures


def by_pandas(path, columns):
    table = pandas.read_parquet(path, engine="pyarrow")
    figures = {"rows": len(table)}
    for name in columns["sums"]:
        figures[f"sum of {name}"] = math.fsum(float(value) for value in table[name])
    for name in columns["numbers"]:
        figures[f"sum of {name}"] = math.fsum(float(value) for cell in table[name] for value in cell)
    for name in columns["texts"]:
        figures[f"entries of {name}"] = sum(len(cell) for cell in table[name])
        figures[f"bytes of {name}"] = sum(len(text.encode()) for cell in table[name] for text in cell)
    return figures


def by_duckdb(path, columns):
    sums = [f"sum({name}::DOUBLE)" for name in columns["sums"]]
    lists = [f"sum(coalesce(list_sum({name}::DOUBLE[]), 0))" for name in columns["numbers"]]
    texts = []
    for name in columns["texts"]:
        texts.append(f"sum(len({name}))")
        texts.append(f"sum(coalesce(list_sum(list_transform({name}, text -> strlen(text))), 0))")
    names = [f"sum of {name}" for name in columns["sums"] + columns["numbers"]]
    names += [f"{what} of {name}" for name in columns["texts"] for what in ("entries", "bytes")]
    # DuckDB writes a lambda in two ways; the default depends on its version.
    query = f"SELECT count(*), {', '.join(sums + lists + texts)} FROM read_parquet(?)"
    try:
        row = duckdb.execute(query.replace("text -> ", "lambda text: "), [str(path)]).fetchone()
    except duckdb.ParserException:
        row = duckdb.execute(query, [str(path)]).fetchone()
    return {"rows": row[0]} | {name: value or 0 for name, value in zip(names, row[1:])}


def compare(path, columns):
    readers = {"polars": by_polars, "pandas": by_pandas, "duckdb": by_duckdb}
    figures = {reader: read(path, columns) for reader, read in readers.items()}
    wrong = []
    for name, expected in figures["polars"].items():
        for reader in ("pandas", "duckdb"):
            if not math.isclose(float(figures[reader][name]), float(expected), rel_tol=1e-9, abs_tol=1e-9):
                wrong.append(f"{path}: {name} is {expected} by polars and {figures[reader][name]} by {reader}")
    rows = figures["polars"]["rows"]
    print(f"{path}: {rows} rows, {len(figures['polars'])} figures compared between {', '.join(readers)}")
    return wrong


def consistency(features_path, examples_path):
    """Checks the tables themselves, whichever library reads them."""
    features, examples = polars.read_parquet(features_path), polars.read_parquet(examples_path)
    alive = features.filter(~polars.col("dead"))
    joined = examples.join(features, on="feature_id", how="left", suffix="_of_feature")
    peak = polars.col("activations").list.get(polars.col("peak_index"))
    quantiles = ["quantile_25", "quantile_50", "quantile_75", "quantile_90", "quantile_99", "max_activation"]
    checks = {
        "feature_id counts up from 0": features["feature_id"].to_list() == list(range(features.height)),
        "dead means that it never fired": (features["dead"] == (features["firing_count"] == 0)).all(),
        "every living feature has a context": set(alive["feature_id"]) == set(examples["feature_id"]),
        "quantiles ascend": all((features[a] <= features[b]).all() for a, b in zip(quantiles, quantiles[1:])),
        "every list of an example has one length": (
            (examples["tokens"].list.len() == examples["token_ids"].list.len())
            & (examples["tokens"].list.len() == examples["activations"].list.len())
        ).all(),
        "the peak has the activation it is said to have": examples.select((peak == polars.col("max_activation")).all()).item(),
        "no context exceeds its feature's maximum": (joined["max_activation"] <= joined["max_activation_of_feature"]).all(),
        "the strongest context has the feature's maximum": (
            joined.filter((polars.col("band") == "top") & (polars.col("rank") == 0))
            .select((polars.col("max_activation") == polars.col("max_activation_of_feature")).all())
            .item()
        ),
    }
    return [f"{features_path.parent}: it does not hold that {what}" for what, holds in checks.items() if not holds]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with features.parquet and examples.parquet")
    folder = parser.parse_args().folder
    features, examples = folder / "features.parquet", folder / "examples.parquet"
    for path in (features, examples):
        if not path.is_file():
            sys.exit(f"{path}: no such file; expected a folder with features.parquet and examples.parquet")
    wrong = compare(features, FEATURES) + compare(examples, EXAMPLES) + consistency(features, examples)
    if wrong:
        sys.exit("\n".join(wrong))
    print("the tables agree and are consistent")


if __name__ == "__main__":
    main()
