"""The questions to a fleet over Spark Connect have the answers of `huddle-analysis fleet`, row for row:

    fleet.py PROGRAM FLEET [--remote local[2]]

FLEET is a generated fleet (`cargo xtask fleet`). It is asked as it was recorded, and exported as a tree for each table. Then
the lines of docs/recordings.md that read each layout are run as they are printed there, by the programs that are installed.
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "analysis" / "fleet"))

import run  # noqa: E402

# What is asked, with what a small fleet needs.
QUESTIONS = {"families": [], "hosts": [], "pairs": ["--top", "1000000", "--of-vm", "20"]}


def in_one_process(program, question, fleet):
    """The answer of `huddle-analysis fleet`."""
    command = [program, "fleet", question, "--format", "json", *QUESTIONS[question], fleet]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def plain(row, columns):
    """The columns of a row of SQL; there is no boolean in it."""
    return tuple(int(row[name]) if isinstance(row[name], bool) else row[name] for name in columns)


def same_answers(program, fleet, tables, remote):
    """Asks each question in both ways, over both layouts."""
    with run.session(remote) as (spark, is_sail):
        version = f"Sail {importlib.metadata.version('pysail')}" if is_sail else f"Spark {spark.version}"
        for question in QUESTIONS:
            answer = in_one_process(program, question, fleet)
            numbers = {"max_holders": answer["max_holders"]}
            if question == "pairs":
                numbers |= {"pairs": 1_000_000, "candidates": 20}
            for layout in (fleet, tables):
                with tempfile.TemporaryDirectory() as work:
                    rows = run.ask(spark, question, layout, numbers, work, is_sail)
                assert rows, (question, layout)
                columns = list(rows[0])
                found = [plain(row, columns) for row in rows]
                expected = [plain(row, columns) for row in answer["rows"]]
                assert len(found) == len(expected), (question, layout, len(found), len(expected))
                for number, (one, other) in enumerate(zip(found, expected)):
                    assert one == other, (question, layout, number, one, other)
            print(f"{version}: {question}: {len(rows)} rows as in one process")
        same_lines(fleet, tables, spark, is_sail)


def readers():
    """What runs a printed block, by its first word; those that are not installed are left out."""
    def polars(code):
        scope = {}
        exec(code, scope)
        return sorted(scope["rows"])

    def duckdb(code):
        import duckdb as program

        return sorted(program.sql(code).fetchall())

    def datafusion(code):
        from datafusion import SessionContext

        context = SessionContext()
        for statement in filter(str.strip, code.split(";")):
            found = context.sql(statement).to_pydict()
        return sorted(zip(*found.values()))

    def clickhouse(code):
        import chdb

        text = str(chdb.query(code.rstrip().rstrip(";"), "JSONCompactEachRow"))
        return sorted((host, int(count)) for host, count in map(json.loads, text.splitlines()))

    return {"Polars": polars, "DuckDB": duckdb, "DataFusion": datafusion, "ClickHouse": clickhouse}


def printed_lines():
    """(reader, layout, code) of each block of docs/recordings.md."""
    page = (ROOT / "docs" / "recordings.md").read_text()
    part = page.split("### Lines that read both layouts\n")[1].split("\n### ")[0].split("\n## ")[0]
    for heading, code in re.findall(r"\n([A-Z][^\n]*):\n```\w+\n(.*?)```", part, re.S):
        yield heading, code


def same_lines(fleet, tables, spark, is_sail):
    """Runs what the page prints; each block counts the kept hashes of each host."""
    def over_spark(code):
        scope = {"spark": spark}
        exec(code, scope)
        return sorted(scope["rows"])

    known = {"Sail": over_spark, **readers()} if is_sail else {"Spark": over_spark}
    expected, seen = {}, 0
    for run_dir in fleet.glob("host=*/run=*"):
        counts = json.loads((run_dir / "manifest.json").read_text())["tables"]["sketches"]
        expected[run_dir.parent.name.removeprefix("host=")] = counts["rows_written"]
    for heading, code in printed_lines():
        reader = heading.split(",")[0]
        if reader not in known:
            continue
        code = code.replace("/srv/tables", str(tables)).replace("/srv/fleet", str(fleet))
        found = known[reader](code)
        assert dict(found) == expected, (heading, found)
        seen += 1
    assert seen == 2 * len(known), f"{seen} blocks were run"
    print(f"{seen} lines of docs/recordings.md read the layouts as they are printed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("fleet", type=Path)
    parser.add_argument("--remote")
    arguments = parser.parse_args()
    fleet = arguments.fleet.resolve()
    with tempfile.TemporaryDirectory() as out:
        tables = Path(out) / "tables"
        export = ["export", fleet, "--format", "parquet", "--layout", "table", "-o", tables]
        export += ["--table", "sketches", "--table", "hosts"]
        subprocess.run([arguments.program.resolve(), *export], check=True, stdout=subprocess.DEVNULL)
        same_answers(arguments.program.resolve(), fleet, tables, arguments.remote)


if __name__ == "__main__":
    main()
