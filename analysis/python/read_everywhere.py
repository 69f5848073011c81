"""Reads every table of a fleet with pyarrow, pandas, Polars and DuckDB: read_everywhere.py FLEET.

All four must see the same rows, columns and nulls, and the columns must be those of docs/schema.
"""

import json
import sys
import uuid
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow.dataset
import pyarrow.parquet

SCHEMA = Path(__file__).resolve().parents[1] / "schema.json"


def files_of(run, table):
    """The closed segments of a table, in order."""
    return sorted((run / table).glob("segment-*.parquet"))


def nulls(frame):
    """How many nulls each column has, by name."""
    return {name: int(frame[name].null_count()) for name in frame.columns}


def check_vms(name, frame):
    """Which VM a row is of: a process or a domain of Xen, never both; a UUID is written in the usual way."""
    kind = polars.col("vm_kind")
    assert set(frame["vm_kind"].unique()) <= {"process", "xen_domain"}, (name, frame["vm_kind"].unique())
    on_xen = frame.filter(kind == "xen_domain")
    assert on_xen["domid"].null_count() == 0 and on_xen["uuid"].null_count() == 0, name
    assert frame.filter(kind == "process")["domid"].drop_nulls().is_empty(), name
    for column in ("pid", "start_ticks", "vm_pid", "thread", "thread_start_ticks"):
        if column in frame.columns:
            assert on_xen[column].drop_nulls().is_empty(), (name, column)
            assert frame.filter(kind == "process")[column].null_count() == 0, (name, column)
    for text in frame["uuid"].drop_nulls().unique():
        assert str(uuid.UUID(text)) == text, (name, text)


def main():
    fleet = Path(sys.argv[1])
    runs = sorted(fleet.glob("host=*/run=*"))
    schema = json.loads(SCHEMA.read_text())
    tables = {table["name"]: table for table in schema["tables"]}
    read = 0
    for run in runs:
        version = json.loads((run / "manifest.json").read_text())["schema_version"]
        assert version == schema["schema_version"], (run, version)
        for name, table in tables.items():
            files = files_of(run, name)
            if not files:
                sys.exit(f"{run} has no {name}: the sample must have every table")
            columns = [column["name"] for column in table["columns"]]
            texts = [str(file) for file in files]
            one = polars.read_parquet(texts, hive_partitioning=False)
            assert one.columns == columns, (name, one.columns)
            # pyarrow, without the partitions of the path.
            arrow = pyarrow.dataset.dataset(texts, format="parquet").to_table()
            assert arrow.column_names == columns and arrow.num_rows == one.height, name
            for field, column in zip(arrow.schema, table["columns"]):
                assert str(field.type) == column["arrow_type"], (name, field)
                assert field.metadata[b"unit"].decode() == column["unit"], (name, field)
                # What the schema says can never be null is never null in a file.
                assert field.nullable == column["nullable"], (name, field)
                assert column["nullable"] or one[column["name"]].null_count() == 0, (name, field)
            found = nulls(one)
            assert {n: arrow[n].null_count for n in columns} == found, name
            pandas_frame = pandas.concat(
                [pandas.read_parquet(file, dtype_backend="pyarrow", partitioning=None) for file in files]
            )
            assert list(pandas_frame.columns) == columns and len(pandas_frame) == one.height, name
            assert {n: int(pandas_frame[n].isna().sum()) for n in columns} == found, name
            counts = ", ".join(f'count(*) - count("{n}")' for n in columns)
            row = duckdb.execute(
                f"select count(*), {counts} from read_parquet(?, hive_partitioning = false)", [texts]
            ).fetchall()[0]
            assert row[0] == one.height and dict(zip(columns, row[1:])) == found, name
            if "vm_kind" in columns and name not in ("events", "sharing", "groups", "sketches", "hosts"):
                check_vms(name, one)
            read += one.height
    # One query over all hosts; every table can be read with the partitions of its path.
    for name in tables:
        glob = str(fleet / f"host=*/run=*/{name}/*.parquet")
        counted = polars.scan_parquet(glob, hive_partitioning=True).group_by("host", "run").len().collect()
        asked = duckdb.sql(
            f"select host, run, count(*) from read_parquet('{glob}', hive_partitioning = true) group by all"
        ).fetchall()
        assert sorted(counted.rows()) == sorted(asked) and len(asked) == len(runs), (name, asked)
    glob = str(fleet / "host=*/run=*/counters/*.parquet")
    hosts = duckdb.sql(
        f"select host, sum(llc_misses) as misses from read_parquet('{glob}', hive_partitioning = true) group by host"
    ).fetchall()
    lazy = polars.scan_parquet(glob, hive_partitioning=True)
    same = lazy.group_by("host").agg(polars.col("llc_misses").sum()).collect().rows()
    assert len(hosts) == len({run.parent for run in runs}) and sorted(hosts) == sorted(same), (hosts, same)
    print(f"{len(runs)} runs, {len(tables)} tables, {read} rows: alike in pyarrow, pandas, Polars and DuckDB")


if __name__ == "__main__":
    main()
