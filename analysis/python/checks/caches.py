#!/usr/bin/env python3
"""The cache simulator beside an independent one (pycachesim), miss for miss, under LRU.

    caches.py CACHE_TRACE [ACCESSES]

`CACHE_TRACE` is the example `cache_trace` of huddle-model: it makes a stream from a seed, runs it under several
placements at once, and writes for each access whether it missed. Here each placement and domain gets a cache of
pycachesim, which is given the accesses of its vCPUs one by one. Every single access must be a hit in both or a miss in
both. Each of the five patterns runs through the last-level cache of the machine of the paper; some of them also through
caches whose number of sets is no power of two, and below a private level 2.

The default number of accesses fits CI and fills the caches but the largest; 10000000 takes some
minutes.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from cachesim import Cache

PATTERNS = ["shared", "scan", "skewed", "strided", "mixed"]
PLACEMENTS = [
    {"name": "recommended", "domain_of": [0, 0, 1, 1]},
    {"name": "opposed", "domain_of": [0, 1, 0, 1]},
    {"name": "uneven", "domain_of": [0, 0, 0, 1]},
]
PAPER = {"name": "E5-2680 under LRU", "domains": 2, "size_bytes": 20 << 20, "ways": 20, "replacement": "lru"}
ODD = {"name": "300 MiB in 245,760 sets", "domains": 2, "size_bytes": 300 << 20, "ways": 20, "replacement": "lru"}
# Small enough that lines leave it within a short trace.
SMALL = {"name": "3 MiB in 3,072 sets", "domains": 2, "size_bytes": 3 << 20, "ways": 16, "replacement": "lru"}
TWO_LEVELS = dict(PAPER, name="E5-2680 below level 2, under LRU",
                  private={"size_bytes": 256 << 10, "ways": 8, "replacement": "lru"})
CASES = [(pattern, PAPER) for pattern in PATTERNS] + [
    ("shared", SMALL), ("skewed", ODD), ("mixed", SMALL), ("mixed", TWO_LEVELS), ("shared", TWO_LEVELS)]


LINE_BYTES = 64


def sets_of(description):
    return description["size_bytes"] // (description["ways"] * LINE_BYTES)


def cache(name, description, below=None):
    return Cache(name, sets_of(description), description["ways"], LINE_BYTES, "LRU", load_from=below)


def expected_misses(model, domain_of, vcpus, addresses):
    """Whether each access leaves its domain, by pycachesim."""
    last = [cache(f"L3 {domain}", model) for domain in range(model["domains"])]
    of_vcpu = [last[domain] for domain in domain_of]
    first = of_vcpu
    if "private" in model:
        first = [cache(f"L2 {vcpu}", model["private"], below=below) for vcpu, below in enumerate(of_vcpu)]
    # Not by `load`, which takes the low 32 bits of an address only (findings/pycachesim-addresses.sh).
    loads = [of.backend.loadstore for of in first]
    backends = [of.backend for of in of_vcpu]

    def run():
        for vcpu, address in zip(vcpus.tolist(), addresses.tolist()):
            backend = backends[vcpu]
            before = backend.MISS_count
            loads[vcpu]((((address,), None),))
            yield backend.MISS_count - before

    return np.fromiter(run(), dtype=np.uint8, count=len(addresses))


def check(program, pattern, model, accesses, directory):
    files = {name: directory / name for name in ["model.json", "placements.json", "trace"]}
    files["model.json"].write_text(json.dumps(model))
    files["placements.json"].write_text(json.dumps(PLACEMENTS))
    subprocess.run([program, pattern, str(accesses), *map(str, files.values())], check=True)
    trace = np.fromfile(files["trace"], dtype=np.dtype([("access", "<u8"), ("missed", "u1")]))
    assert len(trace) == accesses, f"{len(trace)} of {accesses} accesses"
    bits = trace["access"]
    vcpus, addresses = (bits >> np.uint64(2)) & np.uint64(0x7FFF), (bits >> np.uint64(17)) * np.uint64(32)
    assert trace["missed"].any(), "a trace without a miss"
    found = []
    for number, placement in enumerate(PLACEMENTS):
        expected = expected_misses(model, placement["domain_of"], vcpus, addresses)
        missed = (trace["missed"] >> number) & 1
        different = np.flatnonzero(expected != missed)
        if len(different):
            sys.exit(f"caches.py: {pattern}, {model['name']}, {placement['name']}: {len(different)} of {accesses} "
                     f"accesses differ, the first is number {different[0]}")
        found.append(f"{placement['name']} {int(missed.sum())}")
    print(f"{pattern:8} {model['name']}: {accesses} accesses, each as pycachesim has it; misses: {', '.join(found)}",
          flush=True)


def main():
    program = sys.argv[1]
    accesses = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        for pattern, model in CASES:
            check(program, pattern, model, accesses, pathlib.Path(directory))


if __name__ == "__main__":
    main()
