#!/usr/bin/env bash
# pycachesim 0.3.1: `load` of a cache takes the low 32 bits of an address only, without a word, so that lines 4 GiB apart
# are one line. `loadstore` of the same cache takes the whole address.
#
# Physical addresses, and those of a traced program, are wider. Three loads of three lines that are 4 GiB apart are
# counted as one miss and two hits, so a large program only looks better cached than it is. The upper half is not cleared
# either but is whatever is on the stack, so that in other surroundings one line may even be counted as several.
#
# Seen with Python 3.11:
#   load: 0, 4 GiB, 8 GiB: 1 misses, 2 hits
#   loadstore: 0, 4 GiB, 8 GiB: 3 misses, 0 hits
#
# Needs Python with its headers, a C compiler and access to PyPI. Ends with 0 while this holds, with 1 when it has changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/venv"
"$lab/venv/bin/pip" install --quiet --disable-pip-version-check pycachesim==0.3.1
output="$("$lab/venv/bin/python" - <<'PYTHON'
from cachesim import Cache

addresses = (0, 4 << 30, 8 << 30)
for name in ("load", "loadstore"):
    cache = Cache("cache", 1, 4, 64, "LRU").backend
    if name == "load":
        for address in addresses:
            cache.load(address)
    else:
        cache.loadstore([(addresses, None)])
    print(f"{name}: 0, 4 GiB, 8 GiB: {cache.MISS_count} misses, {cache.HIT_count} hits")
PYTHON
)"
printf '%s\n' "$output"
if [ "$output" = $'load: 0, 4 GiB, 8 GiB: 1 misses, 2 hits\nloadstore: 0, 4 GiB, 8 GiB: 3 misses, 0 hits' ]; then
  echo "as found: for load three lines 4 GiB apart are one line"
else
  echo "this has changed" >&2
  exit 1
fi
