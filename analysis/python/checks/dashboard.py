"""Whether Grafana knows every part of the dashboard: it is read by the types that Grafana generates from its own
schema (grafana-foundation-sdk), written again, and nothing may be missing or different afterwards. Those types drop what
they do not know, so a misspelt key is found.

    dashboard.py packaging/monitoring/huddle.dashboard.json
"""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

# A query of an annotation is the data source's own, which the types of a dashboard leave out.
OF_DATA_SOURCES = {("annotations", "list", 0, "expr")}


def missing(own, known, place=()):
    """The places of `own` that `known` lacks or has otherwise."""
    if place in OF_DATA_SOURCES:
        return
    if isinstance(own, dict) and isinstance(known, dict):
        for key, value in own.items():
            if key in known:
                yield from missing(value, known[key], (*place, key))
            elif value is not None and (*place, key) not in OF_DATA_SOURCES:
                yield (*place, key)
    elif isinstance(own, list) and isinstance(known, list) and len(own) == len(known):
        for at, (value, other) in enumerate(zip(own, known)):
            yield from missing(value, other, (*place, at))
    elif own != known:
        yield place


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        own = json.load(file)
    register_default_plugins()
    known = json.loads(json.dumps(Dashboard.from_json(own), cls=JSONEncoder))
    unknown = [".".join(map(str, place)) for place in missing(own, known)]
    if unknown:
        sys.exit("dashboard: Grafana does not know, or reads otherwise:\n  " + "\n  ".join(unknown))
    ids = [panel["id"] for panel in own["panels"]]
    if len(set(ids)) != len(ids):
        sys.exit("dashboard: two panels have one id")
    print(f"dashboard: Grafana's types know all of it ({len(ids)} panels)")


main()
