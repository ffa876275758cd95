#!/usr/bin/env python3
"""Reads the feature tables with PySpark, and compares with polars what Spark finds.

Compared are row counts, sums and list lengths, for codes.parquet and labels.parquet too if they
exist. The filter of a query for one latent must be pushed down to the Parquet reader. The script
prints how many rows this reader reads. It reads all rows, since Spark does not compare unsigned
columns with the statistics of row groups.

Needs Java 17 or later, and `pip install pyspark polars pandas pyarrow duckdb` (the last three for
check_tables.py, which has the description of the tables). It is run by hand: PySpark is not in
requirements.txt.

Example: scripts/check_tables_spark.py out/features
"""

import argparse
import math
import re
import sys
from pathlib import Path

import polars
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StringType

from check_tables import TEXTS, TABLES, by_polars

# Tables that a folder need not have. Columns of strings are found by their type.
OPTIONAL = {
    "codes": {"sums": ["document", "position", "token_id"], "numbers": ["feature_ids", "activations"], "texts": [], "structs": {}},
    "labels": {"sums": ["feature_id", "detection", "fuzzing"], "numbers": [], "texts": [], "structs": {}},
}


def by_spark(table: DataFrame, columns):
    """The figures of check_tables.by_polars, with the same names."""

    def total(name, value):
        return f"sum(aggregate({name}, 0D, (sum, x) -> sum + CAST({value} AS DOUBLE)))"

    figures = {"rows": "count(*)"}
    figures |= {f"sum of {name}": f"sum(CAST({name} AS DOUBLE))" for name in columns["sums"]}
    figures |= {f"sum of {name}": total(name, "x") for name in columns["numbers"]}
    for name in columns["texts"]:
        figures[f"entries of {name}"] = f"sum(size({name}))"
        figures[f"bytes of {name}"] = total(name, "octet_length(x)")
    for name, fields in columns["structs"].items():
        numbers = {field: f"octet_length(x.{field})" if field in TEXTS else f"x.{field}" for field in fields}
        figures |= {f"sum of {name}.{field}": total(name, number) for field, number in numbers.items()}
    row = table.selectExpr(*figures.values()).first()
    return {name: value or 0 for name, value in zip(figures, row)}


def compare(spark: SparkSession, path, columns):
    """What Spark and polars do not agree on."""
    table = spark.read.parquet(str(path))
    found, expected = by_spark(table, columns), by_polars(path, columns)
    strings = [field.name for field in table.schema.fields if isinstance(field.dataType, StringType)]
    for name in strings:
        found[f"bytes of {name}"] = table.selectExpr(f"sum(octet_length({name}))").first()[0] or 0
        expected[f"bytes of {name}"] = polars.read_parquet(path, columns=[name])[name].str.len_bytes().sum()
    wrong = [
        f"{path}: {name} is {expected[name]} by polars and {found.get(name)} by Spark"
        for name in expected
        if name not in found or not math.isclose(float(found[name]), float(expected[name]), rel_tol=1e-9, abs_tol=1e-9)
    ]
    print(f"{path}: {found['rows']} rows, {len(expected)} figures compared between Spark and polars")
    return wrong


def query_one_latent(spark: SparkSession, path):
    """Checks the answer and the plan of a query for the middle latent."""
    table = polars.read_parquet(path)
    wanted = table["feature_id"][table.height // 2]
    expected = table.filter(polars.col("feature_id") == wanted).height
    query = spark.read.parquet(str(path)).where(f"feature_id = {wanted}")
    rows = len(query.collect())
    plan = query._jdf.queryExecution().executedPlan()
    pushed = re.search(r"PushedFilters: \[([^\]]*)\]", plan.toString())
    scan = plan.collectLeaves().head()
    read = scan.metrics().apply("numOutputRows").value()
    print(f"{path}: feature_id = {wanted}: {rows} rows; pushed down: {pushed and pushed[1]}; the reader reads {read} of {table.height} rows")
    wrong = []
    if rows != expected:
        wrong.append(f"{path}: feature_id = {wanted}: found {rows} rows, expected {expected}")
    if not pushed or f"EqualTo(feature_id,{wanted})" not in pushed[1]:
        wrong.append(f"{path}: feature_id = {wanted}: found no pushed filter, expected EqualTo(feature_id,{wanted})")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the tables")
    folder = parser.parse_args().folder
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", False).config("spark.sql.adaptive.enabled", False).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    wrong = []
    for name, columns in (TABLES | OPTIONAL).items():
        # The labels are beside the folder of the tables, or wherever `label --out` wrote them.
        paths = [path for path in (folder / f"{name}.parquet", folder.parent / f"{name}.parquet") if path.is_file()]
        if not paths and name in TABLES:
            sys.exit(f"{folder / name}.parquet: no such file; expected a folder with feature tables")
        for path in paths[:1]:
            wrong += compare(spark, path, columns)
            if "feature_id" in columns["sums"]:
                wrong += query_one_latent(spark, path)
    spark.stop()
    if wrong:
        sys.exit("\n".join(wrong))
    print("Spark and polars agree")


if __name__ == "__main__":
    main()
