#!/usr/bin/env bash
# pycachesim 0.3.1: under its policies MRU and RR a cache does not hold as many lines as it has ways.
#
# A fully associative cache that is given as many lines as it has ways, again and again, misses none after the first
# rounds, whatever is replaced: nothing has to be. Under LRU and FIFO that is so. Under MRU (most recently used) every
# load misses for ever, even with two ways. Under RR (random replacement) it depends on the number of ways: with 2, 4 and
# 8 none misses, with 5 and 20, the number of a common last-level cache, most do.
#
# Seen with Python 3.11, misses of 100 rounds after 1,000 others:
#   LRU: 2 ways 0, 4 ways 0, 5 ways 0, 20 ways 0
#   FIFO: 2 ways 0, 4 ways 0, 5 ways 0, 20 ways 0
#   MRU: 2 ways 200, 4 ways 400, 5 ways 500, 20 ways 2000
#   RR: 2 ways 0, 4 ways 0, 5 ways 466, 20 ways 1803 (by chance)
#
# Needs Python with its headers, a C compiler and access to PyPI. Ends with 0 while this holds, with 1 when it has changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/venv"
"$lab/venv/bin/pip" install --quiet --disable-pip-version-check pycachesim==0.3.1
"$lab/venv/bin/python" - <<'PYTHON'
import sys

from cachesim import Cache


def misses(policy, ways):
    """Of 100 rounds over as many lines as there are ways, after 1,000 rounds."""
    cache = Cache("cache", 1, ways, 64, policy).backend
    # Not by load, which leaves half of each address undefined (pycachesim-addresses.sh).
    rounds = lambda number: cache.loadstore(([line * 64], None) for _ in range(number) for line in range(ways))
    rounds(1000)
    before = cache.MISS_count
    rounds(100)
    return cache.MISS_count - before


found = {policy: {ways: misses(policy, ways) for ways in (2, 4, 5, 20)} for policy in ("LRU", "FIFO", "MRU", "RR")}
for policy, of in found.items():
    print(f"{policy}: " + ", ".join(f"{ways} ways {count}" for ways, count in of.items()))
none = {2: 0, 4: 0, 5: 0, 20: 0}
all_miss = {ways: 100 * ways for ways in none}
random = found["RR"]
is_as_found = (found["LRU"], found["FIFO"], found["MRU"]) == (none, none, all_miss)
is_as_found = is_as_found and random[2] == random[4] == 0 and random[5] > 100 and random[20] > 500
if not is_as_found:
    sys.exit("this has changed")
print("as found: MRU never hits, and RR loses ways where their number is no power of two")
PYTHON
