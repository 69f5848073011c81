#!/usr/bin/env bash
# pysail 0.7.2: a result without rows that is written as Parquet cannot be read back with its columns.
#
# Spark writes one file with the columns and no rows. Sail, a server of the same protocol, writes a directory without a file,
# says nothing, and reads that directory as a frame without columns instead of refusing it: the next query that names a
# column fails, far from the cause. A program that keeps results in files works until one happens to be empty. With the
# columns given to the reader (`spark.read.schema(frame.schema)`) it is read as it was.
#
# Seen with pysail 0.7.2 and pyspark-client 4.2.0:
#   written: number, text; files: 0
#   read: no columns
#   read with the schema: number, text; 0 rows
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

import pysail
import pyspark
from pysail.spark import SparkConnectServer
from pyspark.sql import SparkSession

path = Path(sys.argv[1]) / "written"
server = SparkConnectServer("127.0.0.1", 0)
server.start(background=True)
spark = SparkSession.builder.remote(f"sc://127.0.0.1:{server.listening_address[1]}").getOrCreate()
print(f"pysail {pysail.__version__}, pyspark-client {pyspark.__version__}")
frame = spark.sql("SELECT number, text FROM (VALUES (1, 'a'), (2, 'b')) AS t (number, text) WHERE number > 2")
frame.write.parquet(str(path))
files = len(list(path.glob("**/*.parquet")))
read, given = spark.read.parquet(str(path)), spark.read.schema(frame.schema).parquet(str(path))
found = (frame.columns, files, read.columns, given.columns, given.count())
print(f"written: {', '.join(frame.columns)}; files: {files}")
print(f"read: {', '.join(read.columns) or 'no columns'}")
print(f"read with the schema: {', '.join(given.columns)}; {found[4]} rows")
spark.stop()
server.stop()
if found != (["number", "text"], 0, [], ["number", "text"], 0):
    sys.exit("this has changed")
PYTHON
