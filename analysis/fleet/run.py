"""Asks the questions of `huddle-analysis fleet` over Spark Connect: the same SQL, the same answers.

    run.py families|hosts|pairs DIR [--remote sc://HOST:PORT] [--set NAME=NUMBER]... [--work DIR]

DIR is a tree of sketches, as TABLE/host=HOST/run=RUN or as host=HOST/run=RUN/TABLE. The answer is one JSON object a line, in
order. Without --remote a Sail server is started on loopback for this question (requirements.txt); `--remote local[2]` starts
Spark itself, which needs Java and the package pyspark[connect]. Another server has to see DIR and the directory of --work,
which gets what several views need (default: a temporary directory).

The questions are in sql/: a view a file, and in order.txt the views of each question. Words in braces are whole numbers.
"""

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

SQL = Path(__file__).resolve().parent / "sql"
TABLES = ("sketches", "hosts")


# The numbers in the SQL, as `huddle-analysis fleet` has them (analysis/src/fleet/views.rs).
NUMBERS = {"max_holders": 32, "family_kept": 4, "family_percent": 60, "least": 2, "candidates": 10, "pairs": 30}


def questions():
    """The views of each question, in order."""
    lines = (SQL / "order.txt").read_text().splitlines()
    named = (line.split(":", 1) for line in lines if line and not line.startswith("#"))
    return {name: views.split() for name, views in named}


def text_of(view, numbers):
    """The SQL of a view."""
    text = (SQL / f"{view}.sql").read_text()
    return re.sub(r"\{(\w+)\}", lambda found: str(int(numbers[found[1]])), text)


def times_read(views, numbers):
    """How often each view is read by the others."""
    read = dict.fromkeys(views, 0)
    for view in views:
        code = re.sub(r"--.*", "", text_of(view, numbers))
        for name in re.findall(r"\b(?:FROM|JOIN)\s+(\w+)", code):
            if name in read:
                read[name] += 1
    return read


def read_table(spark, fleet, table, is_sail):
    """A table of all hosts, with host and run from the paths."""
    if (fleet / table).is_dir():
        frame = spark.read.parquet(str(fleet / table))
    elif is_sail:
        # With `host=*` in the pattern Sail finds nothing, and says nothing.
        frame = spark.read.parquet(f"{fleet}/**/{table}/*.parquet")
    else:
        frame = spark.read.option("basePath", str(fleet)).parquet(f"{fleet}/host=*/run=*/{table}")
    types = dict(frame.dtypes)
    for name in ("host", "run"):
        if types[name] != "string":
            sys.exit(
                f"run.py: the server takes {name} for a number ({types[name]}), so that 007 and 7 would be one; set "
                "spark.sql.sources.partitionColumnTypeInference.enabled=false there"
            )
    return frame


def check_manifests(fleet):
    """Sketches of other seeds or scales have no hashes in common: ends with a sentence if there are some."""
    newest = {}
    # Ids of runs begin with their time.
    for path in sorted([*fleet.glob("host=*/run=*/manifest.json"), *fleet.glob("manifest/host=*/run=*/manifest.json")]):
        about = json.loads(path.read_text()).get("sketches")
        if about is not None:
            newest[path.parent.parent.name] = (about, path)
    first = next(iter(newest.values()), None)
    for about, path in newest.values():
        if about != first[0]:
            sys.exit(
                f"run.py: the sketches of {path.parent} were made by another seed, scale or hash than those of "
                f"{first[1].parent}; leave one out, or sketch again"
            )


def holders_of_families(spark, numbers):
    """What more VMs hold than this is common: a quarter of all, at least 3 and at most 32."""
    for view in ("newest", "vms"):
        spark.sql(text_of(view, numbers)).createOrReplaceTempView(view)
    vms = spark.sql("SELECT COUNT(*) FROM vms").collect()[0][0]
    return min(max(vms // 4, 3), 32)


def ask(spark, question, fleet, given, work, is_sail=True):
    """The rows of the answer, as dictionaries."""
    for table in TABLES:
        read_table(spark, fleet, table, is_sail).createOrReplaceTempView(table)
    numbers = {**NUMBERS, **given}
    if question == "families" and "max_holders" not in given:
        numbers["max_holders"] = holders_of_families(spark, numbers)
    *views, answer = questions()[question]
    read = times_read([*views, answer], numbers)
    for view in views:
        frame = spark.sql(text_of(view, numbers))
        # A view that is read twice would be computed twice, and so would all that it is made of.
        if read[view] > 1:
            path = str(Path(work) / view)
            frame.write.mode("overwrite").parquet(path)
            # Sail writes no file for a view without rows, and then would not know its columns.
            frame = spark.read.schema(frame.schema).parquet(path)
        frame.createOrReplaceTempView(view)
    return [row.asDict() for row in spark.sql(text_of(answer, numbers)).collect()]


@contextlib.contextmanager
def session(remote):
    """A session with that server, or with a Sail server that ends with it; and whether it is Sail."""
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ.setdefault("RUST_LOG", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module="pyspark")
    server = None
    if remote is None:
        from pysail.spark import SparkConnectServer

        server = SparkConnectServer("127.0.0.1", 0)
        server.start(background=True)
        remote = f"sc://127.0.0.1:{server.listening_address[1]}"
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.remote(remote)
    if remote.startswith("local"):
        # Its default of 200 parts is for clusters.
        settings = {
            "spark.sql.shuffle.partitions": "4",
            "spark.ui.enabled": "false",
            "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
        }
        for name, value in settings.items():
            builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        yield spark, server is not None
    finally:
        spark.stop()
        if server is not None:
            server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["families", "hosts", "pairs"])
    parser.add_argument("fleet", type=Path, metavar="DIR")
    parser.add_argument("--remote", metavar="URL", help="a Spark Connect server, or local[N] for Spark on this machine")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="another number in the SQL")
    parser.add_argument("--work", metavar="DIR", help="where views go that are read several times")
    arguments = parser.parse_args()
    given = {}
    for setting in arguments.set:
        name, _, number = setting.partition("=")
        if name not in NUMBERS or not number.isdecimal():
            parser.error(f"--set {setting}: expected NAME=NUMBER, with a name of {', '.join(NUMBERS)}")
        given[name] = int(number)
    fleet = arguments.fleet.resolve()
    if not fleet.is_dir():
        parser.error(f"{fleet} is not a directory: name the tree of sketches of a fleet")
    check_manifests(fleet)
    with contextlib.ExitStack() as stack:
        # A directory of its own: what others left there is not overwritten.
        work = stack.enter_context(tempfile.TemporaryDirectory(prefix="huddle-fleet-", dir=arguments.work))
        spark, is_sail = stack.enter_context(session(arguments.remote))
        for row in ask(spark, arguments.question, fleet, given, work, is_sail):
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
