"""Data sets with what SciPy makes of them: model/src/stats/golden.json.

    python analysis/python/golden_stats.py            writes the file
    python analysis/python/golden_stats.py --check    fails when SciPy here gives other figures
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy import stats

FILE = Path(__file__).resolve().parents[2] / "model/src/stats/golden.json"
QUANTILES = [0.0, 0.025, 0.5, 0.9, 0.99, 0.999, 1.0]


def pairs():
    """Names and pairs: without ties, with ties, with pairs that do not differ, beyond the exact test."""
    draw = np.random.default_rng(20261123)
    for n in (1, 2, 6, 11, 30, 50):
        before = draw.lognormal(1.0, 0.3, n)
        yield f"plain{n}", before, before * draw.normal(0.9, 0.1, n)
    for n in (7, 12, 14):
        before = draw.integers(1, 6, n).astype(float)
        yield f"ties{n}", before, draw.integers(1, 6, n).astype(float)
    before = draw.integers(1, 20, 80).astype(float)
    yield "long80", before, before + draw.integers(-3, 5, 80)
    rising = np.arange(1.0, 21.0) + draw.normal(0, 1.0, 20)
    yield "rising20", rising, rising * 1.05
    spiked = draw.normal(10, 0.5, 15)
    spiked[4] = 40.0
    yield "spiked15", spiked, draw.normal(9, 0.5, 15)


def exact(statistic, data, kind):
    """The exact p value with ties: all ways to give signs or labels."""
    result = stats.permutation_test(
        data, statistic, permutation_type=kind, n_resamples=np.inf, alternative="two-sided"
    )
    return float(result.pvalue)


def signed_rank(before, after):
    """Wilcoxon's test of the pairs that differ."""
    differences = (after - before)[after != before]
    if not len(differences):
        return None
    tied = len(np.unique(np.abs(differences))) < len(differences)
    ranks = stats.rankdata(np.abs(differences))
    plus = float(ranks[differences > 0].sum())
    minus = float(ranks[differences < 0].sum())
    if len(differences) > 50:
        p = stats.wilcoxon(differences, method="asymptotic", correction=False).pvalue
    elif not tied:
        p = stats.wilcoxon(differences, method="exact").pvalue
    else:
        # The sum of the positive ranks under all changes of sign.
        signed = np.sign(differences) * ranks
        p = exact(lambda d, axis=-1: np.where(d > 0, d, 0).sum(axis=axis), (signed,), "samples")
    return {
        "n": len(differences),
        "statistic": min(plus, minus),
        "p_value": float(p),
        "effect_size": (plus - minus) / (plus + minus),
    }


def mann_whitney(first, second):
    """Mann-Whitney's test; exact, with ties too, up to 50 values."""
    tied = len(np.unique(np.concatenate([first, second]))) < len(first) + len(second)
    u = stats.mannwhitneyu(first, second).statistic
    if len(first) + len(second) > 50:
        p = stats.mannwhitneyu(first, second, method="asymptotic").pvalue
    elif not tied:
        p = stats.mannwhitneyu(first, second, method="exact").pvalue
    else:
        ranks = stats.rankdata(np.concatenate([first, second]))
        split = (ranks[: len(first)], ranks[len(first) :])
        if len(first) > 8:
            return None  # too many ways to try them all one by one
        p = exact(lambda a, b, axis=-1: a.sum(axis=axis), split, "independent")
    return {
        "statistic": float(u),
        "p_value": float(p),
        "effect_size": 1 - 2 * float(u) / (len(first) * len(second)),
    }


def trend(values):
    """Kendall's tau against the order."""
    if len(values) < 8:
        return None
    result = stats.kendalltau(np.arange(len(values)), values, method="asymptotic")
    return {"tau": float(result.statistic), "p_value": float(result.pvalue)}


def outliers(values):
    """Positions by the modified z score."""
    mad = stats.median_abs_deviation(values)
    if mad == 0:
        return []
    return np.flatnonzero(0.6745 * np.abs(values - np.median(values)) / mad > 3.5).tolist()


def interval(values):
    """The exact interval of the median by order statistics."""
    if len(values) < 6:
        return None
    found = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    return [float(found.low), float(found.high)]


def case(name, before, after):
    """One data set with all that SciPy says of it."""
    change = 1 - after / before
    return {
        "name": name,
        "before": before.tolist(),
        "after": after.tolist(),
        "median_change": float(np.median(change)),
        "ci95_change": interval(change),
        "quantiles": np.quantile(before, QUANTILES).tolist(),
        "signed_rank": signed_rank(before, after),
        "mann_whitney": mann_whitney(before, after),
        "trend_before": trend(before),
        "outliers_before": outliers(before),
    }


def close(one, other):
    """Whether two documents agree, figures to 9 digits."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(close(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return bool(np.isclose(one, other, rtol=1e-9, atol=1e-12))
    return one == other


def main():
    made = {"quantiles_at": QUANTILES, "cases": [case(*found) for found in pairs()]}
    if "--check" in sys.argv[1:]:
        if not close(json.loads(FILE.read_text()), made):
            sys.exit(f"{FILE} is not what this SciPy computes; run {sys.argv[0]} and look at the difference")
        print(f"{FILE.name}: {len(made['cases'])} data sets, as SciPy computes them")
    else:
        FILE.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
