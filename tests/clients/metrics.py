"""Reads /metrics of an ops port (http://host:port) as a scraper does, in both formats, with Prometheus' own parsers.

Prints, for each format, its content type and its families in order: name, type, unit, help, and samples as
[name, labels, value].
"""

import json
import sys
import urllib.request

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

FORMATS = {
    "openmetrics": ("application/openmetrics-text; version=1.0.0", openmetrics_parser.text_string_to_metric_families),
    "plain": ("text/plain; version=0.0.4", parser.text_string_to_metric_families),
}


def read(accept, parse):
    request = urllib.request.Request(sys.argv[1] + "/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as answer:
        kind, text = answer.headers["Content-Type"], answer.read().decode()
    families = [
        {
            "name": family.name,
            "type": family.type,
            "unit": family.unit,
            "help": family.documentation,
            "samples": [[sample.name, sample.labels, sample.value] for sample in family.samples],
        }
        for family in parse(text)
    ]
    return {"content_type": kind, "families": families}


print(json.dumps({name: read(*how) for name, how in FORMATS.items()}))
