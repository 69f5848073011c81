#!/usr/bin/env bash
# pysail 0.7.2: a pattern of partitions finds no file, without an error, while the same files are found by `**`.
#
# Of DIR/host=a/part.parquet, Spark reads `DIR/host=*`, with the column `host` if basePath is DIR. Sail, a server of the same
# protocol, gives a frame without columns and without rows: what asks for a number of rows gets 0. With `DIR/**/*.parquet`,
# which Spark does not expand over several levels, all is there.
#
# Seen with pysail 0.7.2 and pyspark-client 4.2.0:
#   DIR: number, host; 4 rows
#   DIR/host=*: no columns; 0 rows
#   DIR/host=*/*.parquet with basePath: no columns; 0 rows
#   DIR/**/*.parquet: number, host; 4 rows
#
# Needs Python 3.11 or newer with venv, and access to PyPI. Listens on loopback only. Ends with 0 while this holds, with 1
# when it has changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/venv"
"$lab/venv/bin/pip" install -q --disable-pip-version-check pysail==0.7.2 pyspark-client==4.2.0 pandas==2.3.3 pyarrow==22.0.0 grpcio==1.85.3
RUST_LOG=off "$lab/venv/bin/python" - "$lab" <<'PYTHON'
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pysail
import pyspark
from pysail.spark import SparkConnectServer
from pyspark.sql import SparkSession

tree = Path(sys.argv[1]) / "tree"
for host in ("a", "b"):
    (tree / f"host={host}").mkdir(parents=True)
    pq.write_table(pa.table({"number": [1, 2]}), tree / f"host={host}" / "part.parquet")
server = SparkConnectServer("127.0.0.1", 0)
server.start(background=True)
spark = SparkSession.builder.remote(f"sc://127.0.0.1:{server.listening_address[1]}").getOrCreate()
print(f"pysail {pysail.__version__}, pyspark-client {pyspark.__version__}")
found = {
    "DIR": spark.read.parquet(str(tree)),
    "DIR/host=*": spark.read.parquet(f"{tree}/host=*"),
    "DIR/host=*/*.parquet with basePath": spark.read.option("basePath", str(tree)).parquet(f"{tree}/host=*/*.parquet"),
    "DIR/**/*.parquet": spark.read.parquet(f"{tree}/**/*.parquet"),
}
found = {name: (frame.columns, frame.count()) for name, frame in found.items()}
for name, (columns, rows) in found.items():
    print(f"{name}: {', '.join(columns) or 'no columns'}; {rows} rows")
spark.stop()
server.stop()
all_rows, nothing = (["number", "host"], 4), ([], 0)
if list(found.values()) != [all_rows, nothing, nothing, all_rows]:
    sys.exit("this has changed")
PYTHON
