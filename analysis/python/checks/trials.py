"""Evidence and intervals of trials, by an implementation of its own: model/src/stats/golden_trials.json.

    python analysis/python/checks/trials.py            writes the file
    python analysis/python/checks/trials.py --check    fails when it gets other figures, or the promises do not hold

The Rust tests compare their figures with the file. Here the promises are checked by simulation, too: a host without an
effect, whose noise repeats with the blocks.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).resolve().parents[3] / "model/src/stats/golden_trials.json"
STAKE = 0.95
FACTORS = np.array([0.25, 0.5, 1.0, 2.0])


def wealth(ratios, center, sign):
    """The gambler's wealth after each block (columns), for many trials at once (rows)."""
    beyond = sign * (np.atleast_2d(ratios) - center)
    scales = np.stack(
        [np.median(np.abs(beyond[:, : n + 1]), axis=1) for n in range(beyond.shape[1])], axis=1
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(beyond == 0.0, 0.0, beyond / scales)
    bets = 1.0 + STAKE * np.tanh(FACTORS[:, None, None] * relative)
    return np.cumprod(bets, axis=2).mean(axis=0)


def interval(ratios):
    """All centers against which the mean of both directions is below 20: from a fine grid."""
    middle = float(np.median(ratios))
    reach = float(np.abs(ratios - middle).max())
    grid = middle + np.linspace(-3.0, 3.0, 6001) * reach
    both = [
        (wealth(ratios, center, 1.0)[0, -1] + wealth(ratios, center, -1.0)[0, -1]) / 2.0 for center in grid
    ]
    inside = np.flatnonzero(np.array(both) < 20.0)
    if inside[0] == 0 or inside[-1] == len(grid) - 1:
        return None
    return [float(grid[inside[0]]), float(grid[inside[-1]])]


def figures():
    """Trials with what they are evidence of."""
    draw = np.random.default_rng(20261129)
    for blocks, effect, noise in ((3, 0.1, 0.05), (8, 0.1, 0.02), (12, 0.0, 0.05), (20, 0.1, 0.05), (40, 0.05, 0.1)):
        before = 1000.0 * np.exp(noise * draw.standard_normal(blocks))
        after = 1000.0 * (1.0 + effect) * np.exp(noise * draw.standard_normal(blocks))
        ratios = np.log(after / before)
        ends = interval(ratios)
        yield {
            "before": before.tolist(),
            "after": after.tolist(),
            "evidence_above_0": float(wealth(ratios, 0.0, 1.0)[0, -1]),
            "evidence_below_3_percent": float(wealth(ratios, math.log1p(0.03), -1.0)[0, -1]),
            "interval": None if ends is None else [math.expm1(end) for end in ends],
            "grid": float(np.abs(ratios - np.median(ratios)).max()) * 6.0 / 6000,
        }


def check_promises():
    """Stopping whenever it looks good: at most 5 % of hosts ever reach 20, whatever the noise."""
    draw = np.random.default_rng(1)
    hosts, blocks = 2000, 40
    slots = np.arange(2 * blocks)
    independent = draw.standard_normal((hosts, 2 * blocks))
    autoregressive = independent.copy()
    for slot in slots[1:]:
        autoregressive[:, slot] = 0.9 * autoregressive[:, slot - 1] + math.sqrt(0.19) * independent[:, slot]
    kinds = {
        "independent": 0.05 * independent,
        "AR(1) 0.9": 0.05 * autoregressive,
        "heavy-tailed": 0.05 * draw.standard_t(2, (hosts, 2 * blocks)),
        "with the period of a block": 0.2 * (slots % 2) + 0.01 * independent,
        "with the period of two blocks": 0.2 * (slots % 4 < 2) + 0.01 * independent,
        "drift": 0.01 * slots + 0.01 * independent,
    }
    # Three standard deviations above 5 %.
    limit = 0.05 + 3.0 * math.sqrt(0.05 * 0.95 / hosts)
    for name, noise in kinds.items():
        coins = draw.integers(0, 2, (hosts, blocks)) * 2 - 1
        ratios = coins * (noise[:, 1::2] - noise[:, ::2])
        above, below = wealth(ratios, 0.0, 1.0), wealth(ratios, 0.0, -1.0)
        fooled = float((above.max(axis=1) >= 20.0).mean())
        missed = float((((above + below) / 2.0).max(axis=1) >= 20.0).mean())
        print(f"trials, {name}: fooled {fooled:.2%}, interval without the truth at any block {missed:.2%}")
        assert fooled <= limit and missed <= limit, name


def main():
    """Writes the file, or compares it."""
    now = list(figures())
    if "--check" not in sys.argv[1:]:
        FILE.write_text(json.dumps(now, indent=1) + "\n")
        return
    for was, is_now in zip(json.loads(FILE.read_text()), now, strict=True):
        for name, value in is_now.items():
            same = was[name] is None if value is None else np.allclose(was[name], value, rtol=1e-9)
            assert same, f"{name}: {was[name]} in {FILE.name}, {value} here"
    check_promises()


if __name__ == "__main__":
    main()
