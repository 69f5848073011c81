"""huddle-analysis against hand-written Polars and NumPy on the same recording: same_numbers.py PROGRAM FLEET."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parent / "checks"))
from trials import wealth  # noqa: E402

QUANTILES = [0.5, 0.9, 0.95, 0.99, 0.995, 0.999]


def ask(program, *arguments):
    """What the program answers as JSON."""
    done = subprocess.run([program, *arguments, "--format", "json"], check=True, capture_output=True)
    return json.loads(done.stdout)


def main():
    program, fleet = sys.argv[1], Path(sys.argv[2])
    run = sorted(fleet.glob("host=*/run=*"))[0]
    responses = pl.read_parquet(run / "responses/*.parquet", hive_partitioning=False)
    check(program, run, "responses", responses.filter(pl.col("failure").is_null()))
    # Without single responses the latencies are the means that workloads report.
    with tempfile.TemporaryDirectory() as scratch:
        without = Path(scratch) / "run"
        shutil.copytree(run, without, ignore=shutil.ignore_patterns("responses"))
        reported = pl.read_parquet(run / "reported/*.parquet", hive_partitioning=False)
        check(program, without, "window_means", reported)


def check(program, run, latency_of, latencies):
    """Everything that `compare` says of one run."""
    told = ask(program, "compare", str(run))
    counters = pl.read_parquet(run / "counters/*.parquet", hive_partitioning=False)
    reported = pl.read_parquet(run / "reported/*.parquet", hive_partitioning=False)
    blocks = (
        counters.filter(pl.col("arm").is_not_null())
        .group_by("arm", "trial", "block")
        .agg(
            mpki=1000 * pl.col("llc_misses").sum() / pl.col("instructions").sum(),
            miss_ratio=pl.col("llc_misses").sum() / pl.col("llc_references").sum(),
            ipc=pl.col("instructions").sum() / pl.col("cycles").sum(),
        )
        .join(
            reported.group_by("arm", "trial", "block", "window")
            .agg(pl.col("operations").sum(), us=(pl.col("end_us") - pl.col("begin_us")).first())
            .group_by("arm", "trial", "block")
            .agg(throughput=1e6 * pl.col("operations").sum() / pl.col("us").sum()),
            on=["arm", "trial", "block"],
        )
        .join(
            latencies.group_by("arm", "trial", "block").agg(latency_us=pl.col("latency_us").median()),
            on=["arm", "trial", "block"],
        )
        .sort("trial", "block")
    )
    for arm in told["arms"]:
        mine = blocks.filter(pl.col("arm") == arm["name"], pl.col("trial") == arm["trial"])
        for measure, value in arm["values"].items():
            np.testing.assert_allclose(value["available"]["median"], mine[measure].median(), rtol=1e-12)
        assert arm["latency_of"] == latency_of, arm
        of_arm = latencies.filter(pl.col("arm") == arm["name"], pl.col("trial") == arm["trial"])["latency_us"]
        assert arm["latencies"] == len(of_arm), arm
        np.testing.assert_allclose(arm["latency_quantiles_us"], np.quantile(of_arm, QUANTILES), rtol=1e-12)
    checked = 0
    for change in told["changes"]:
        measure, compared = change["measure"], change["compared"]["available"]
        of_trial = blocks.filter(pl.col("trial") == change["trial"])
        before = of_trial.filter(pl.col("arm") == told["baseline"])
        after = of_trial.filter(pl.col("arm") == change["arm"])
        assert compared["method"] == "evidence", change
        first, second = before[measure].to_numpy(), after[measure].to_numpy()
        sign = 1 if measure in ("ipc", "throughput") else -1
        np.testing.assert_allclose(compared["change"]["median"], np.median(sign * (second / first - 1)), atol=1e-12)
        ratios = sign * np.log(second / first)
        np.testing.assert_allclose(compared["evidence_better"], wealth(ratios, 0.0, 1.0)[0, -1], rtol=1e-9)
        np.testing.assert_allclose(compared["evidence_worse"], wealth(ratios, 0.0, -1.0)[0, -1], rtol=1e-9)
        checked += 1
    assert checked >= 3, told
    print(f"compare, latencies of {latency_of}: {len(told['arms'])} arms, {len(told['changes'])} changes, as Polars and NumPy have them")


if __name__ == "__main__":
    main()
