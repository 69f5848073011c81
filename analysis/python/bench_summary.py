"""`huddle-analysis summary` against the same query in DuckDB and in hand-written Python Polars, on one generated table.

    bench_summary.py PROGRAM MANIFEST [--rows 100000000] [--repeat 5] [--dir DIR] [--keep DIR]

Whole process against whole process: start, imports, query, end. All have the same number of threads, read the table once
before the first round, so that the page cache is warm, and take turns at going first. Printed are the times, the ratios to
ours round by round with their median, and the peak memory. PROGRAM must be built with optimised dependencies
(`cargo build --release --workspace --bin huddle-analysis`); its path and size are printed.
"""

import argparse
import importlib.metadata
import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "schema.json").read_text())
TYPES = {"bool": pa.bool_(), "int32": pa.int32(), "uint32": pa.uint32(), "int64": pa.int64(), "uint64": pa.uint64(),
         "double": pa.float64(), "string": pa.string()}
SEGMENT_ROWS = 1_000_000
VMS = 64

POLARS = '''
import sys
import polars as pl
c = pl.col
both = lambda above, below: c(above).filter(c(below).is_not_null()).sum()
count = lambda condition: condition.fill_null(False).cast(pl.UInt64).sum()
answer = (
    pl.scan_parquet(sys.argv[1] + "/counters/*.parquet", hive_partitioning=False)
    .group_by("vm")
    .agg(
        a=both("llc_misses", "instructions"), b=both("instructions", "llc_misses"),
        c=both("llc_misses", "llc_references"), d=both("llc_references", "llc_misses"),
        e=both("instructions", "cycles"), f=both("cycles", "instructions"),
        samples=pl.len(), without_misses=count(c("llc_misses").is_null()),
        multiplexed=count(c("time_running_ns") < c("time_enabled_ns")),
        migrated=count(c("domain_migrations").fill_null(c("migrations")) > 0),
        broken=count(c("pages_broken") > 0), first=c("window").min(), last=c("window").max(),
    )
    .sort("vm")
    .collect(engine="streaming")
)
print(answer["samples"].sum(), 1000 * answer["a"].sum() / answer["b"].sum())
'''

DUCKDB = '''
import sys
import duckdb
duckdb.execute("set threads = " + sys.argv[2])
duckdb.execute("set enable_progress_bar = false")
both = lambda above, below: f"sum({above}) filter (where {below} is not null)"
count = lambda condition: f"count(*) filter (where {condition})"
answer = duckdb.execute(f"""
    select vm, {both("llc_misses", "instructions")}, {both("instructions", "llc_misses")},
        {both("llc_misses", "llc_references")}, {both("llc_references", "llc_misses")},
        {both("instructions", "cycles")}, {both("cycles", "instructions")},
        count(*), {count("llc_misses is null")}, {count("time_running_ns < time_enabled_ns")},
        {count("coalesce(domain_migrations, migrations) > 0")}, {count("pages_broken > 0")}, min("window"), max("window")
    from read_parquet(?, hive_partitioning = false) group by vm order by vm
""", [sys.argv[1] + "/counters/*.parquet"]).fetchall()
print(sum(row[7] for row in answer), 1000 * sum(row[1] for row in answer) / sum(row[2] for row in answer))
'''


def segment(first, rows, draw):
    """Rows of 64 VMs with one vCPU, a window a second; nulls as on a host that loses some counters."""
    number = np.arange(first, first + rows)
    window = number // VMS + 1
    begin = 1_700_000_000_000_000 + window * 1_000_000
    instructions = draw.integers(1_000_000, 4_000_000, rows).astype(float)
    lost = draw.random(rows) < 0.02
    values = {
        "begin_us": begin, "end_us": begin + 1_000_000, "window": window, "round": window // 60 + 1,
        "vm": pa.DictionaryArray.from_arrays(pa.array(number % VMS, pa.int32()), [f"vm{i:02}" for i in range(VMS)]).cast(pa.string()),
        "vm_pid": 1000 + number % VMS, "vcpu": np.zeros(rows), "thread": 2000 + number % VMS,
        "thread_start_ticks": np.full(rows, 7), "domain": number % 4, "interval_ns": np.full(rows, 1_000_000_000),
        "time_enabled_ns": np.full(rows, 800_000_000), "time_running_ns": np.where(draw.random(rows) < 0.1, 400_000_000, 800_000_000),
        "cycles": instructions * 2, "instructions": instructions, "llc_references": draw.integers(20_000, 80_000, rows).astype(float),
        "llc_misses": pa.array(draw.integers(1_000, 20_000, rows).astype(float), mask=lost),
        "migrations": draw.integers(0, 3, rows), "domain_migrations": draw.integers(0, 2, rows), "pages_broken": draw.integers(0, 2, rows),
    }
    arrays = []
    for column in next(table for table in SCHEMA["tables"] if table["name"] == "counters")["columns"]:
        kind, value = TYPES[column["arrow_type"]], values.get(column["name"])
        arrays.append(pa.nulls(rows, kind) if value is None else pa.array(value).cast(kind))
    names = [column["name"] for column in next(t for t in SCHEMA["tables"] if t["name"] == "counters")["columns"]]
    return pa.table(arrays, names=names)


def generate(run, rows, sample_manifest):
    """One run with nothing but counters."""
    draw = np.random.default_rng(1)
    (run / "counters").mkdir(parents=True)
    for number, first in enumerate(range(0, rows, SEGMENT_ROWS), 1):
        table = segment(first, min(SEGMENT_ROWS, rows - first), draw)
        pq.write_table(table, run / "counters" / f"segment-{number:06}.parquet", compression="zstd", row_group_size=131_072)
    manifest = json.loads(Path(sample_manifest).read_text())
    manifest["tables"] = {}
    (run / "manifest.json").write_text(json.dumps(manifest))


def timed(command):
    """Seconds, CPU seconds, peak memory in MiB and output of a process."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} failed with {process.returncode}")
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, output.decode()


def make(run, options):
    """Generates in a process of its own: the peak of a child counts what its parent held when it was forked."""
    making = multiprocessing.get_context("spawn").Process(target=generate, args=(run, options.rows, options.manifest))
    making.start()
    making.join()
    if making.exitcode:
        sys.exit("the table could not be made")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("manifest", help="manifest.json of any recording: the generated run takes its facts")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dir", default=None, help="where the table is made, and removed again")
    parser.add_argument("--keep", type=Path, help="a directory to make the table in, or to take it from, and to leave it in")
    parser.add_argument("--only-make", action="store_true", help="make the table of --keep and stop")
    options = parser.parse_args()
    scratch = options.keep or Path(tempfile.mkdtemp(prefix="huddle-bench-", dir=options.dir))
    try:
        run = scratch / "run"
        begin = time.perf_counter()
        if not run.exists():
            make(run, options)
        size = sum(file.stat().st_size for file in (run / "counters").iterdir())
        print(f"{options.rows} rows, {size / 2**30:.2f} GiB of zstd Parquet, there after {time.perf_counter() - begin:.0f} s", flush=True)
        if options.only_make:
            return
        threads = str(len(os.sched_getaffinity(0)))
        os.environ["POLARS_MAX_THREADS"] = threads
        ask = {
            "huddle-analysis": [options.program, "summary", "--format", "json", str(run)],
            "DuckDB": [sys.executable, "-c", DUCKDB, str(run), threads],
            "Python Polars": [sys.executable, "-c", POLARS, str(run)],
        }
        versions = f"DuckDB {importlib.metadata.version('duckdb')}, Polars {importlib.metadata.version('polars')}"
        program = Path(options.program).resolve()
        print(f"{program} ({program.stat().st_size / 2**20:.0f} MiB), {versions}, {threads} threads each", flush=True)
        rounds = []
        for number in range(options.repeat + 1):
            names = list(ask)
            order = names[number % len(names):] + names[: number % len(names)]
            found = {name: timed(ask[name]) for name in order}
            counted = json.loads(found["huddle-analysis"][3])["runs"][0]["counted"]
            samples = sum(vm["samples"]["samples"] for vm in counted)
            told = [found[name][3].split() for name in ("DuckDB", "Python Polars")]
            assert all(int(answer[0]) == samples == options.rows for answer in told), (samples, told)
            assert math.isclose(float(told[0][1]), float(told[1][1]), rel_tol=1e-9), told
            if number == 0:
                continue  # the first of each reads from the disk
            rounds.append(found)
            line = ", ".join(f"{name} {found[name][0]:.2f} s ({found[name][1]:.1f} s of CPU, {found[name][2]:.0f} MiB)" for name in order)
            print(f"  {line}", flush=True)
        result = {"rows": options.rows, "threads": int(threads)}
        for name in ask:
            key = name.lower().replace(" ", "_").replace("-", "_")
            result[f"{key}_s"] = round(statistics.median(found[name][0] for found in rounds), 2)
            result[f"{key}_cpu_s"] = round(statistics.median(found[name][1] for found in rounds), 1)
            result[f"{key}_peak_mib"] = round(max(found[name][2] for found in rounds))
            if name != "huddle-analysis":
                # Round by round, since who else uses the machine changes from one to the next.
                ratios = [found["huddle-analysis"][0] / found[name][0] for found in rounds]
                result[f"ratio_to_{key}"] = round(statistics.median(ratios), 3)
                result[f"ratios_to_{key}"] = [round(ratio, 2) for ratio in ratios]
        print(json.dumps(result))
    finally:
        if options.keep is None:
            shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
