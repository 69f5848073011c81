"""Metrics of huddle as parsers of others read them: the reference parsers of Prometheus's Python client, of OpenMetrics
and of the older text format. Both texts have to be valid, and to say the same.

    metrics.py target/debug/examples/sample_metrics     checks both formats of a loop that never ran
    metrics.py --openmetrics FILE                       checks a scrape
"""

import subprocess
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus


def samples(families):
    """Values by name and labels; fails where one is there twice."""
    found = {}
    for family in families:
        if not family.documentation:
            sys.exit(f"metrics: {family.name} has no help")
        if family.unit and not family.name.endswith("_" + family.unit):
            sys.exit(f"metrics: {family.name} does not end with its unit {family.unit}")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            if key in found:
                sys.exit(f"metrics: {key} is there twice")
            found[key] = sample.value
    return found


def main():
    if sys.argv[1] == "--openmetrics":
        with open(sys.argv[2], encoding="utf-8") as file:
            found = samples(openmetrics(file.read()))
        print(f"metrics: {len(found)} samples are valid OpenMetrics")
        return
    texts = {}
    for name, parse in (("openmetrics", openmetrics), ("prometheus", prometheus)):
        made = subprocess.run([sys.argv[1], name], check=True, capture_output=True)
        texts[name] = samples(parse(made.stdout.decode()))
    if texts["openmetrics"] != texts["prometheus"]:
        sys.exit("metrics: the two formats differ")
    # The example's names are what parsers stumble over.
    names = {value for (_, labels) in texts["openmetrics"] for (label, value) in labels if label == "vm"}
    if names != {'quote" back\\slash', "two\\nlines", "\U0001f980 {}=,#"}:
        sys.exit(f"metrics: names are read as {names}")
    print(f"metrics: {len(texts['openmetrics'])} samples, alike in both formats")


main()
