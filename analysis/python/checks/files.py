"""Files of huddle for others, and of others for huddle: files.py BIN_DIR FLEET READERS_DIR [--no-spark]

1. Readers of the last two years, each in its pinned version (readers/*.txt, installed into READERS_DIR), read every
   table of FLEET and find what today's pyarrow finds.
2. DataFusion reads the tree of a fleet with the documented option.
3. A recording that went through DuckDB, pandas, pyarrow, Polars (and Spark) gives the same answers as the one that
   huddle wrote, in every command of `huddle-analysis` and in `huddle plan --replay` and `huddle top --replay`. What
   loses something is refused by both programs in the same words.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
PINNED = HERE / "readers"

# What each old reader runs: it gets the files of one table, and prints the number of rows and, for the named column,
# its sum and how many values it has.
READ = {
    "polars-1.20": "import polars as pl; f = pl.read_parquet(files, hive_partitioning=False); "
    "print(f.height, f[column].sum(), f[column].count())",
    "polars-1.40": "import polars as pl; f = pl.scan_parquet(files, hive_partitioning=False).collect(); "
    "print(f.height, f[column].sum(), f[column].count())",
    "datafusion-48": "from datafusion import SessionContext\n"
    "rows = [0, 0.0, 0]\n"
    "for number, file in enumerate(files):\n"
    "  c = SessionContext(); c.register_parquet('t', file)\n"
    "  b = c.sql(f'select count(*), sum(\"{column}\"), count(\"{column}\") from t').to_pydict()\n"
    "  rows = [a + (list(v)[0] or 0) for a, v in zip(rows, b.values())]\n"
    "print(*rows)",
    "daft-0.6": "import daft; t = daft.read_parquet(files).to_arrow(); import pyarrow.compute as pc; "
    "print(t.num_rows, pc.sum(t[column]).as_py() or 0, len(t[column]) - t[column].null_count)",
    "pyarrow-17": "import pyarrow.parquet as pq, pyarrow as pa, pyarrow.compute as pc; "
    "t = pa.concat_tables([pq.ParquetFile(f).read() for f in files]); "
    "print(t.num_rows, pc.sum(t[column]).as_py() or 0, len(t[column]) - t[column].null_count)",
    "duckdb-0.10": "import duckdb; "
    "print(*duckdb.execute(f'select count(*), coalesce(sum(\"{column}\"), 0), count(\"{column}\") "
    "from read_parquet(?, hive_partitioning = false)', [files]).fetchone())",
    "spark-3.5": None,
}
COLUMNS = {"counters": "llc_misses", "sharing": "rate", "reported": "latency_us", "responses": "latency_us",
           "trials": "expected_change", "sketches": "end_us", "hosts": "vm_vcpus"}

SPARK = """
import os, sys
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
from pyspark.sql import SparkSession, functions as f
s = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
     .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1").getOrCreate())
s.sparkContext.setLogLevel("ERROR")
"""


def installed(name, readers):
    """The directory of a pinned reader; pip installs it once."""
    pins = (PINNED / f"{name}.txt").read_text()
    target = readers / name
    done = target / ".pins"
    if not done.exists() or done.read_text() != pins:
        shutil.rmtree(target, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*pip, "--target", str(target), "-r", str(PINNED / f"{name}.txt")], check=True)
        done.write_text(pins)
    return target


def old_reader(name, readers, code, *arguments):
    """What `code` prints with this reader and no other packages."""
    environment = {**os.environ, "PYTHONPATH": str(installed(name, readers)), "PYTHONNOUSERSITE": "1"}
    # Not the packages of the virtual environment, of which some would be newer.
    command = [sys.executable, "-S", "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} cannot read what huddle wrote:\n{done.stderr[-2000:]}")
    return done.stdout


def check_old_readers(fleet, readers, has_spark):
    run = sorted(fleet.glob("host=*/run=*"))[0]
    tables = {path.name: sorted(map(str, path.glob("segment-*.parquet"))) for path in sorted(run.iterdir()) if path.is_dir()}
    expected = {}
    for table, files in tables.items():
        found = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
        column = COLUMNS.get(table, "round")
        values = found[column].drop_null()
        expected[table] = (found.num_rows, sum(values.to_pylist()), len(values))
    for name, code in READ.items():
        if code is None:
            if not has_spark:
                continue
            code = SPARK + (
                "import json\n"
                "for table, (files, column) in json.loads(sys.argv[1]).items():\n"
                "  r = s.read.parquet(*files).agg(f.count('*'), f.coalesce(f.sum(column), f.lit(0)), f.count(column)).first()\n"
                "  print(table, *r)\n"
                "s.stop()"
            )
        else:
            body = "\n".join("  " + line for line in code.split("\n"))
            code = (
                "import json, sys\n"
                "def read(table, files, column):\n"
                f"  print(table, end=' ')\n{body}\n"
                "for table, (files, column) in json.loads(sys.argv[1]).items():\n"
                "  read(table, files, column)\n"
                # Threads of a reader (daft 0.6.0) may crash while Python ends, after everything was read.
                "sys.stdout.flush()\n"
                "import os\n"
                "os._exit(0)\n"
            )
        asked = {table: (files, COLUMNS.get(table, "round")) for table, files in tables.items()}
        lines = old_reader(name, readers, code, json.dumps(asked)).split("\n")
        told = {words[0]: words[1:] for words in map(str.split, lines) if len(words) == 4}
        assert set(told) == set(expected), (name, set(expected) - set(told))
        for table, (rows, total, count) in expected.items():
            assert int(told[table][0]) == rows and int(told[table][2]) == count, (name, table, told[table])
            assert abs(float(told[table][1]) - total) <= 1e-9 * max(1, abs(total)), (name, table, told[table], total)
        print(f"{name}: {len(told)} tables, as pyarrow {pa.__version__} has them")


def check_datafusion_tree(fleet, readers):
    """The tree `host=/run=/TABLE/`, as docs/recordings.md says."""
    code = """
import sys
from datafusion import SessionContext
context = SessionContext()
context.sql("set datafusion.execution.listing_table_ignore_subdirectory = false").collect()
context.sql(f"create external table counters stored as parquet partitioned by (host, run) "
            f"location '{sys.argv[1]}/[c]ounters/*.parquet'").collect()
answer = context.sql("select host, count(*) as n from counters group by host order by host").to_pydict()
print(*[f"{host}={n}" for host, n in zip(answer["host"], answer["n"])])
"""
    rows = {}
    for file in fleet.glob("host=*/run=*/counters/*.parquet"):
        host = file.parts[-4].removeprefix("host=")
        rows[host] = rows.get(host, 0) + pq.ParquetFile(file).metadata.num_rows
    found = old_reader("datafusion-48", readers, code, str(fleet)).split()
    assert found == [f"{host}={n}" for host, n in sorted(rows.items())], (found, rows)
    print(f"datafusion-48: the counters of a tree of {len(rows)} hosts")


def by_duckdb(source, target):
    duckdb.execute(f"copy (select * from read_parquet('{source}', hive_partitioning = false)) to '{target}' (format parquet)")


def by_pandas(source, target):
    pandas.read_parquet(source, partitioning=None).to_parquet(target)


def by_pyarrow(source, target):
    pq.write_table(pq.ParquetFile(source).read(), target)


def by_pyarrow_other_types(source, target):
    """Other types and another order that lose nothing, a column more, no metadata."""
    table = pq.ParquetFile(source).read()
    columns = {"added by somebody": pa.array(["x"] * table.num_rows)}
    for name in reversed(table.column_names):
        column = table[name]
        if column.type == pa.string():
            column = column.cast(pa.large_string()) if len(name) % 2 else column.dictionary_encode()
        elif column.type in (pa.uint64(), pa.uint32(), pa.int32()):
            column = column.cast(pa.int64())
        columns[name] = column
    pq.write_table(pa.table(columns), target, compression="gzip")


def by_pyarrow_dictionaries(source, target):
    """Texts as dictionaries and nothing else changed: Parquet's own types stay, the Arrow schema beside them differs."""
    table = pq.ParquetFile(source).read()
    for at, field in enumerate(table.schema):
        if field.type == pa.string():
            table = table.set_column(at, field.name, table[field.name].dictionary_encode())
    pq.write_table(table, target)


def by_polars(source, target):
    polars.read_parquet(source, hive_partitioning=False).write_parquet(target)


def rewritten(run, to, by):
    """The run with every segment written again by another program."""
    shutil.copytree(run, to)
    for file in sorted(to.glob("*/segment-*.parquet")):
        again = file.with_suffix(".again")
        by(str(file), str(again))
        again.rename(file)


def by_spark(run, to, readers):
    """The run with every segment written again by Spark."""
    shutil.copytree(run, to)
    jobs = [[str(file), str(file) + ".d"] for file in sorted(to.glob("*/segment-*.parquet"))]
    code = SPARK + (
        "import json\n"
        "for source, target in json.loads(sys.argv[1]):\n"
        "  s.read.parquet(source).coalesce(1).write.parquet(target)\n"
        "s.stop()"
    )
    old_reader("spark-3.5", readers, code, json.dumps(jobs))
    for file, made in jobs:
        (part,) = Path(made).glob("part-*.parquet")
        part.rename(file)
        shutil.rmtree(made)


def asked(programs, run, scratch):
    """All answers about one run, without what names its place."""
    def ask(program, *arguments):
        done = subprocess.run([programs / program, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, (program, arguments, done.returncode, done.stderr, done.stdout[-2000:])
        return done.stdout.replace(str(run), "RUN"), done.stderr

    answers, notes = {}, ""
    for command in ("summary", "compare", "sharing", "timeline"):
        answers[command], told = ask("huddle-analysis", command, "--format", "json", str(run))
        notes += told
    valid, _ = ask("huddle-analysis", "validate", "--format", "json", str(run))
    answers["validate"] = [(one["problems"], one["usable"]) for one in json.loads(valid)["runs"]]
    ask("huddle-analysis", "report", str(run), "-o", str(scratch / "report.html"))
    shutil.rmtree(scratch / "out", ignore_errors=True)
    ask("huddle-analysis", "export", "--format", "csv", "-o", str(scratch / "out"), str(run))
    answers["export"] = {file.name: file.read_text() for file in (scratch / "out").iterdir()}
    plan, told = ask("huddle", "plan", "--replay", str(run), "--format", "json")
    answers["plan"] = {key: value for key, value in json.loads(plan).items() if key != "recording"}
    return answers, notes + told


def replayed(programs, run):
    """The first screen of `huddle top --replay`, in a terminal of its own; `None` without tmux."""
    if not shutil.which("tmux"):
        return None
    command = f"'{programs / 'huddle'}' top --replay '{run}'; sleep 5"
    tmux = ["tmux", "-L", f"huddle-files-{os.getpid()}"]
    subprocess.run([*tmux, "new-session", "-d", "-x", "140", "-y", "40", command], check=True)
    try:
        for _ in range(100):
            screen = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True).stdout
            if re.search(r"overview.*sharing.*misses", screen):
                return screen
            subprocess.run(["sleep", "0.1"], check=True)
        sys.exit(f"huddle top --replay shows nothing of {run}:\n{screen}")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def check_rewritten(programs, fleet, readers, has_spark):
    run = sorted(fleet.glob("host=*/run=*"))[0]
    with tempfile.TemporaryDirectory(prefix="huddle-files-") as scratch:
        scratch = Path(scratch)
        original, _ = asked(programs, run, scratch)
        ways = {name.removeprefix("by_"): way for name, way in globals().items()
                if name.startswith("by_") and name != "by_spark"}
        names = [*ways, *(["spark"] if has_spark else [])]
        for name in names:
            to = scratch / name
            if name == "spark":
                by_spark(run, to, readers)
            else:
                rewritten(run, to, ways[name])
            answers, notes = asked(programs, to, scratch)
            for command, expected in original.items():
                assert answers[command] == expected, (name, command, differing(answers[command], expected))
            assert "written by another program" in notes, (name, notes)
            screen = replayed(programs, to)
            assert screen is None or "cannot be read" not in screen, (name, screen)
            print(f"written again by {name}: {len(original)} answers and the replay are those of the recording")
            shutil.rmtree(to)
        check_refused(programs, run, scratch)


def check_refused(programs, run, scratch):
    """What would lose something, and damage, is left out by both programs in the same words."""
    def as_text(table):
        table = table.set_column(0, table.column_names[0], table[0].cast(pa.string()))
        return table, "begin_us is Utf8, and should hold whole numbers of 64 bits"

    def negative(table):
        place = table.column_names.index("round")
        return table.set_column(place, "round", pa.array([-1] * table.num_rows)), "round has -1 in row 1"

    def fewer(table):
        return table.drop_columns(["policy"]), "policy is missing"

    for change in (as_text, negative, fewer):
        to = scratch / change.__name__
        shutil.copytree(run, to)
        file = sorted(to.glob("decisions/segment-*.parquet"))[0]
        table, words = change(pq.ParquetFile(file).read().replace_schema_metadata(None))
        pq.write_table(table, file)
        summary = subprocess.run([programs / "huddle-analysis", "validate", "--format", "json", to], capture_output=True, text=True)
        plan = subprocess.run([programs / "huddle", "plan", "--replay", to], capture_output=True, text=True)
        sentence = f"{file} cannot be read: "
        one = [p for p in json.loads(summary.stdout)["runs"][0]["problems"] if p.startswith(sentence)]
        other = [line[line.index(sentence):] for line in plan.stderr.splitlines() if sentence in line]
        assert one and other and words in one[0], (change.__name__, summary.stdout, plan.stderr)
        assert other[0].startswith(one[0]), (one, other)
    # A changed byte in a segment of huddle's is damage, whatever else another program wrote.
    to = scratch / "damaged"
    rewritten(run, to, by_duckdb)
    file = sorted((run / "decisions").glob("segment-*.parquet"))[0]
    bytes_ = bytearray(file.read_bytes())
    bytes_[len(bytes_) // 3] ^= 1
    (to / "decisions" / file.name).write_bytes(bytes_)
    done = subprocess.run([programs / "huddle-analysis", "summary", "--format", "json", to], capture_output=True, text=True)
    assert done.returncode == 0 and "its bytes are not those that were written" in done.stderr, done.stderr
    print("what loses something is refused by both programs in the same words; a damaged segment stays refused")


def differing(found, expected):
    """The first place where two answers differ."""
    if isinstance(found, dict):
        key = next(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        return key, differing(found.get(key), expected.get(key))
    if isinstance(found, str) and isinstance(expected, str):
        at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
        return found[max(0, at - 80):at + 80], expected[max(0, at - 80):at + 80]
    return found, expected


def main():
    has_spark = "--no-spark" not in sys.argv
    programs, fleet, readers = (Path(argument).resolve() for argument in [a for a in sys.argv[1:] if not a.startswith("--")])
    check_old_readers(fleet, readers, has_spark)
    check_datafusion_tree(fleet, readers)
    check_rewritten(programs, fleet, readers, has_spark)


if __name__ == "__main__":
    main()
