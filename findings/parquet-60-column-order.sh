#!/usr/bin/env bash
# parquet 60: a file with a column of floating point numbers is refused as a whole by readers of the last two years.
#
# From version 60 on the crate writes for such a column that its statistics have the total order of IEEE 754
# (ColumnOrder, field 2 of the union in the footer, parquet-format 2.12), and has no setting for it. Version 59 writes
# the order TYPE_DEFINED_ORDER. Readers that do not know field 2 take the union for an empty one and refuse the footer.
#
# Seen with parquet 60.1.0 and 59.3.2 on Linux:
#   written by parquet 60: polars 1.20.0 refuses, polars 1.40.0 refuses, datafusion 48.0.0 refuses, pyarrow 17.0.0 reads
#   written by parquet 59: all four read
#
# Needs cargo, Python 3.11 or 3.12 with venv, and access to crates.io and PyPI. Ends with 0 while this holds, with 1 when
# it has changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
cd "$lab"
export CARGO_TARGET_DIR="$lab/target"
for version in 59.3.2 60.1.0; do
  mkdir -p "$version/src"
  cat >"$version/Cargo.toml" <<TOML
[package]
name = "writes-a-double"
version = "0.0.0"
edition = "2021"

[dependencies]
parquet = { version = "=$version", default-features = false }

[workspace]
TOML
  cat >"$version/src/main.rs" <<'RUST'
use std::sync::Arc;

use parquet::data_type::DoubleType;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

fn main() {
    let schema = Arc::new(parse_message_type("message m { required double a; }").unwrap());
    let file = std::fs::File::create(std::env::args().nth(1).unwrap()).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<DoubleType>().write_batch(&[0.5, 1.5], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}
RUST
  (cd "$version" && cargo run --quiet -- "$lab/$version.parquet")
done

python3 -m venv "$lab/venv"
read_with() { # reader, the packages it needs, and how it reads the file named by the first argument
  "$lab/venv/bin/pip" install -q --disable-pip-version-check --only-binary :all: --target "$lab/$1" ${2//,/ }
  local version told=""
  for version in 60.1.0 59.3.2; do
    if PYTHONPATH="$lab/$1" "$lab/venv/bin/python" -S -c "import sys; file = sys.argv[1]; $3" "$lab/$version.parquet" >/dev/null 2>&1; then
      told="$told reads"
    else
      told="$told refuses"
    fi
  done
  echo "$1: written by parquet 60$(cut -d' ' -f2 <<<"$told" | sed 's/^/ /'), by parquet 59$(cut -d' ' -f3 <<<"$told" | sed 's/^/ /')"
}
found="$(
  read_with polars-1.20.0 polars==1.20.0 'import polars; polars.read_parquet(file)'
  read_with polars-1.40.0 polars==1.40.0 'import polars; polars.read_parquet(file)'
  read_with datafusion-48.0.0 datafusion==48.0.0,pyarrow==20.0.0 \
    'import datafusion; c = datafusion.SessionContext(); c.register_parquet("t", file); c.sql("select a from t").collect()'
  read_with pyarrow-17.0.0 pyarrow==17.0.0,numpy==2.0.2 'import pyarrow.parquet; pyarrow.parquet.ParquetFile(file).read()'
)"
printf '%s\n' "$found"
expected="polars-1.20.0: written by parquet 60 refuses, by parquet 59 reads
polars-1.40.0: written by parquet 60 refuses, by parquet 59 reads
datafusion-48.0.0: written by parquet 60 refuses, by parquet 59 reads
pyarrow-17.0.0: written by parquet 60 reads, by parquet 59 reads"
[ "$found" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
