"""One Spark query over the recordings of several hosts: read_with_spark.py FLEET. Needs Java 17 or newer."""

import os
import sys
from pathlib import Path

import polars
from pyspark.sql import SparkSession, functions

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def main():
    fleet = Path(sys.argv[1])
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    try:
        read = spark.read.option("basePath", str(fleet)).parquet(str(fleet / "host=*/run=*/counters"))
        rows = (
            read.groupBy("host", "arm")
            .agg((1000 * functions.sum("llc_misses") / functions.sum("instructions")).alias("mpki"))
            .collect()
        )
    finally:
        spark.stop()
    found = {(row["host"], row["arm"]): row["mpki"] for row in rows}
    glob = str(fleet / "host=*/run=*/counters/*.parquet")
    expected = (
        polars.scan_parquet(glob, hive_partitioning=True)
        .group_by("host", "arm")
        .agg((1000 * polars.col("llc_misses").sum() / polars.col("instructions").sum()).alias("mpki"))
        .collect()
    )
    assert len(found) == expected.height and len({host for host, _ in found}) == 3, found
    for host, arm, mpki in expected.rows():
        assert abs(found[host, arm] - mpki) < 1e-9, (host, arm, found[host, arm], mpki)
    print(f"Spark: {len(found)} arms on 3 hosts in one query, as Polars has them")


if __name__ == "__main__":
    main()
