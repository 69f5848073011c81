"""`compare` of an experiment's result against NumPy and the experiment's own figures: same_experiment.py PROGRAM DIR."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np


def main():
    program, directory = sys.argv[1], Path(sys.argv[2])
    summary = json.loads((directory / "summary.json").read_text())
    done = subprocess.run([program, "compare", str(directory), "--format", "json"], check=True, capture_output=True)
    told = json.loads(done.stdout)
    blocks = [block for block in summary["blocks"] if block["invalid"] is None]
    if not blocks:
        assert told["arms"] == [] and "no valid block" in told["warnings"][0], told
        print("experiment: no valid block, and compare says so")
        return

    def values(arm):
        """Reads per second, and nanoseconds of CPU time a read, block by block."""
        samples = [next((one for one in block["samples"] if one["arm"] == arm), None) for block in blocks]
        speed = [sum(g["reads"] * 1e9 / g["elapsed_ns"] for g in s["guests"]) if s else np.nan for s in samples]
        busy = [
            sum(g["busy_ns"] for g in s["guests"]) / sum(g["reads"] for g in s["guests"]) if s else np.nan
            for s in samples
        ]
        return {"throughput": np.array(speed), "cpu_time_ns": np.array(busy)}

    own = {"throughput": summary["arms"], "cpu_time_ns": summary["arms_busy"]}
    found = {arm["name"]: values(arm["name"]) for arm in told["arms"]}
    assert set(found) == set(summary["arms"]), (set(found), set(summary["arms"]))
    for arm in told["arms"]:
        for measure, expected in found[arm["name"]].items():
            median = arm["values"][measure]["available"]["median"]
            np.testing.assert_allclose(median, np.nanmedian(expected), rtol=1e-12)
            np.testing.assert_allclose(median, own[measure][arm["name"]]["median"], rtol=1e-12)
    checked = 0
    for change in told["changes"]:
        if change["measure"] in own:
            before, after = found[told["baseline"]][change["measure"]], found[change["arm"]][change["measure"]]
            sign = 1 if change["measure"] == "throughput" else -1
            median = change["compared"]["available"]["change"]["median"]
            np.testing.assert_allclose(median, np.nanmedian(sign * (after / before - 1)), atol=1e-12)
            checked += 1
    assert checked >= 2, told
    print(f"experiment: {len(found)} arms over {len(blocks)} blocks, {checked} changes, as NumPy and the experiment have them")


if __name__ == "__main__":
    main()
