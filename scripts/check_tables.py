#!/usr/bin/env python3
"""Reads the feature tables with polars, pandas (pyarrow) and DuckDB.

Checks that all three agree on row counts, sums and list lengths, that the tables are consistent,
and how much of a file a query for one latent reads.

Example: scripts/check_tables.py out/features
"""

import argparse
import json
import math
import sys
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow.parquet

# Columns of numbers, of lists of numbers, of lists of texts, and of lists of structs with their
# fields.
TABLES = {
    "features": {
        "sums": ["feature_id", "firing_count", "firing_density", "mean_activation", "max_activation", "std_activation",
                 "quantile_25", "quantile_50", "quantile_75", "quantile_90", "quantile_99", "mean_position", "decoder_norm", "dead"],
        "numbers": ["relative_decoder_norms"],
        "texts": [],
        "structs": {
            "nearest": ["feature_id", "cosine"],
            "promoted": ["token", "id", "logit"],
            "suppressed": ["token", "id", "logit"],
            "top_tokens": ["token", "id", "count", "mean_activation", "lift"],
        },
    },
    "examples": {
        "sums": ["feature_id", "rank", "max_activation", "peak_index", "document", "position"],
        "numbers": ["token_ids", "activations"],
        "texts": ["tokens"],
        "structs": {},
    },
    "histograms": {"sums": ["feature_id", "lower", "upper", "count"], "numbers": [], "texts": [], "structs": {}},
    "coactivations": {
        "sums": ["feature_id", "partner_id", "count", "count_error", "jaccard", "phi"],
        "numbers": [],
        "texts": [],
        "structs": {},
    },
    "documents": {"sums": ["document", "tokens"], "numbers": [], "texts": [], "structs": {}},
}
# Fields of structs that are texts; their bytes are compared.
TEXTS = ["token"]
# Largest share of a file that a query for one latent may read, if the file is not so small that its
# footer is a large part.
MOST_READ, SMALL = 0.05, 1_000_000


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
    for name, fields in columns["structs"].items():
        cells = table.select(name).explode(name).drop_nulls().unnest(name)
        for field in fields:
            numbers = cells[field].str.len_bytes() if field in TEXTS else cells[field].cast(polars.Float64)
            figures[f"sum of {name}.{field}"] = numbers.sum() or 0.0
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
    for name, fields in columns["structs"].items():
        cells = [cell for cells in table[name] for cell in cells]
        for field in fields:
            numbers = (len(cell[field].encode()) if field in TEXTS else float(cell[field]) for cell in cells)
            figures[f"sum of {name}.{field}"] = math.fsum(numbers)
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
    for name, fields in columns["structs"].items():
        names += [f"sum of {name}.{field}" for field in fields]
        numbers = [f"strlen(text.{field})" if field in TEXTS else f"text.{field}::DOUBLE" for field in fields]
        texts += [f"sum(coalesce(list_sum(list_transform({name}, text -> {number})), 0))" for number in numbers]
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


def share_read(path):
    """Share of the file that a query for its middle latent reads: the footer, and the row groups that may have it."""
    footer, size = pyarrow.parquet.read_metadata(path), path.stat().st_size
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    ranges = [(group.column(0).statistics.min, group.column(0).statistics.max) for group in groups]
    wanted = ranges[len(ranges) // 2][0]
    chosen = [group for group, (low, high) in zip(groups, ranges) if low <= wanted <= high]
    columns = [group.column(number).total_compressed_size for group in chosen for number in range(group.num_columns)]
    return (footer.serialized_size + sum(columns)) / size


def metadata(path, table):
    """Checks what the file says of itself."""
    found = json.loads(polars.read_parquet_metadata(path).get("lapidary", "{}"))
    expected = {"table": table, "schema_version": 2}
    wrong = [f"{path}: metadata: {key} is {found.get(key)!r}, expected {value!r}" for key, value in expected.items() if found.get(key) != value]
    if not found.get("provenance"):
        wrong.append(f"{path}: metadata: no provenance")
    return wrong


def consistency(folder):
    """Checks the tables themselves, whichever library reads them."""
    features, examples, histograms, pairs, documents = (polars.read_parquet(folder / f"{name}.parquet") for name in TABLES)
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
        "histograms count every firing": histograms.group_by("feature_id").agg(polars.col("count").sum()).join(
            alive.select("feature_id", "firing_count"), on="feature_id", how="full").select(
            (polars.col("count") == polars.col("firing_count")).all()).item(),
        "activations lie in the range of the histogram": histograms.group_by("feature_id").agg(
            polars.col("lower").max().alias("low"), polars.col("upper").max().alias("high")).join(alive, on="feature_id").select(
            ((polars.col("low") <= polars.col("max_activation")) & (polars.col("max_activation") < polars.col("high"))).all()).item(),
        "every context is of a document": examples.join(documents, on="document", how="anti").height == 0,
        "documents have tokens and a beginning": (documents["tokens"] > 0).all() and (documents["start"].str.len_chars() > 0).all(),
        "every pair is there from both sides": pairs.select("feature_id", "partner_id").rows().__len__() == pairs.join(
            pairs, left_on=["feature_id", "partner_id"], right_on=["partner_id", "feature_id"], how="semi").height,
        "both latents of a pair fire at least as often as together": pairs.join(features, on="feature_id").select(
            (polars.col("count") <= polars.col("firing_count")).all()).item(),
        "the nearest latents are others, sorted by cosine": features.select(own="feature_id", nearest="nearest").explode("nearest").drop_nulls(
            ).unnest("nearest").group_by("own", maintain_order=True).agg(
            (polars.col("cosine").diff().drop_nulls() <= 0).all() & (polars.col("feature_id") != polars.col("own")).all()
            & (polars.col("feature_id").n_unique() == 10)).get_column("cosine").all(),
        "top tokens are sorted by activation mass": features.select("feature_id", "top_tokens").explode("top_tokens").drop_nulls().unnest(
            "top_tokens").with_columns(mass=polars.col("count") * polars.col("mean_activation")).group_by("feature_id", maintain_order=True).agg(
            (polars.col("mass").diff().drop_nulls() <= 1e-4 * polars.col("mass").max()).all()).get_column("mass").all(),
    }
    return [f"{folder}: it does not hold that {what}" for what, holds in checks.items() if not holds]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the tables")
    folder = parser.parse_args().folder
    wrong = []
    for name, columns in TABLES.items():
        path = folder / f"{name}.parquet"
        if not path.is_file():
            sys.exit(f"{path}: no such file; expected a folder with {', '.join(f'{name}.parquet' for name in TABLES)}")
        wrong += compare(path, columns) + metadata(path, name)
        if "feature_id" not in columns["sums"]:
            continue
        share = share_read(path)
        print(f"{path}: a query for one latent reads {100 * share:.1f} % of the file")
        small = path.stat().st_size < SMALL or name == "features"  # which has one row per latent
        if share > MOST_READ and not small:
            wrong.append(f"{path}: a query for one latent reads {share:.3f} of the file, expected at most {MOST_READ}")
    wrong += consistency(folder)
    if wrong:
        sys.exit("\n".join(wrong))
    print("the tables agree and are consistent")


if __name__ == "__main__":
    main()
