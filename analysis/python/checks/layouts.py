"""Both layouts of a fleet, read by the lines of docs/recordings.md: layouts.py HUDDLE_ANALYSIS FLEET READERS_DIR [--no-spark]

The lines are taken from the page as they stand there, so that it stays true. Each has to find the rows of `counters`
of every host and run that pyarrow finds in the files.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq

from files import SPARK, old_reader

PAGE = Path(__file__).resolve().parents[3] / "docs" / "recordings.md"

CLICKHOUSE = "import chdb, sys; print(chdb.query(f'select host, run, count() {sys.argv[1]} group by host, run', 'CSV'))"
DATAFUSION = (
    "import sys; from datafusion import SessionContext; c = SessionContext(); c.sql(sys.argv[1])\n"
    "found = c.sql('select host, run, count(*) as n from counters group by host, run').to_pydict()\n"
    "for row in zip(found['host'], found['run'], found['n']): print(*row, sep=',')"
)


def documented():
    """The lines for each program: by run, and by table; `None` where the page refers to elsewhere."""
    section = PAGE.read_text().split("### Two layouts of a fleet")[1].split("\n### ")[0]
    lines = {}
    for row in re.findall(r"^\| (Polars|DuckDB|DataFusion|Spark, Sail|ClickHouse) \| (.*) \| (.*) \|$", section, re.M):
        code = [re.fullmatch(r"`(.*)`", cell) for cell in row[1:]]
        lines[row[0]] = [found.group(1) if found else None for found in code]
    assert set(lines) == {"Polars", "DuckDB", "DataFusion", "Spark, Sail", "ClickHouse"}, lines
    return lines


def rows_of_csv(text):
    rows = [line.replace('"', "").split(",") for line in text.strip().splitlines()]
    return {(host, run): int(count) for host, run, count in rows}


def ask(program, line, readers):
    """Rows of each host and run, as a program counts them."""
    if program == "Polars":
        frame = eval(line, {"pl": pl}).group_by("host", "run").len().collect()
        return {(host, run): count for host, run, count in frame.rows()}
    if program == "DuckDB":
        found = duckdb.sql(f"select host, run, count(*) {line} group by host, run").fetchall()
        return {(host, run): count for host, run, count in found}
    if program == "DataFusion":
        return rows_of_csv(old_reader("datafusion-55", readers, DATAFUSION, line))
    if program == "ClickHouse":
        return rows_of_csv(old_reader("chdb-4.4", readers, CLICKHOUSE, line))
    code = SPARK + (
        "spark = s\n"
        f"for row in ({line}).groupBy('host', 'run').count().collect(): print(*row, sep=',')\n"
        "s.stop()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"Spark cannot read it:\n{done.stderr[-2000:]}")
    return rows_of_csv(done.stdout)


def main():
    program, fleet, readers = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    has_spark = "--no-spark" not in sys.argv[4:]
    expected = Counter()
    for file in fleet.glob("host=*/run=*/counters/*.parquet"):
        host, run = (part.split("=", 1)[1] for part in file.parts[-4:-2])
        expected[host, run] += pq.ParquetFile(file).metadata.num_rows
    assert len(expected) > 1, expected
    asked = 0
    with tempfile.TemporaryDirectory() as directory:
        by_table = Path(directory) / "by-table"
        subprocess.run([program, "export", str(fleet), "--format", "parquet", "--layout", "table", "-o",
                        str(by_table)], check=True,
                       stdout=subprocess.DEVNULL)
        for name, lines in documented().items():
            if name == "Spark, Sail" and not has_spark:
                continue
            for root, line in zip((fleet, by_table), lines):
                if line is not None:
                    found = ask(name, line.replace("ROOT", str(root)), readers)
                    assert found == expected, (name, line, found, dict(expected))
                    asked += 1
        # Our own program reads both, and finds the same.
        answers = [
            json.loads(subprocess.run([program, "sharing", str(root), "--format", "json"], check=True,
                                      capture_output=True, text=True).stdout.replace(str(root), "ROOT"))
            for root in (fleet, by_table)
        ]
        for answer in answers:
            for run in answer.get("runs", []):
                run.pop("run", None), run.pop("path", None), run.pop("dir", None)
        assert json.dumps(answers[0]).replace("ROOT/manifest/", "ROOT/") == json.dumps(answers[1]).replace(
            "ROOT/manifest/", "ROOT/"
        )
    print(f"both layouts: {asked} documented lines find the rows of all {len(expected)} runs")


if __name__ == "__main__":
    main()
