"""The command `scripts/chart`: what the chart renders to, and its schema."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from helm_python import HelmError

from devtools.chart.rendering import rendered, values_of
from devtools.chart.schema import SCHEMA, with_settings
from devtools.chart.summary import summary
from devtools.outcome import Exit, say

__all__ = ["main"]

REFUSED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 1 if Helm refuses the values."""
    parser = argparse.ArgumentParser(prog="scripts/chart", description="Look at helm/aip-cluster, without a cluster.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("summary", help="objects by kind, for each of its ci/*-values.yaml")
    commands.add_parser("schema", help="bring values.schema.json up to date with node/settings.py")
    command = commands.add_parser("render", help="what Helm would send to Kubernetes")
    command.add_argument("values", type=Path, nargs="?", help="a file of values (default: none)")
    command.add_argument("--name", default="aip", help="of the release (default: %(default)s)")
    command.add_argument("--namespace", default="agents", help="default: %(default)s")
    options = parser.parse_args(argv)
    if options.command == "schema":
        before = SCHEMA.read_text(encoding="utf-8")
        # Only if there is something to change: Helm may be reading it.
        if (after := with_settings(before)) != before:
            SCHEMA.write_text(after, encoding="utf-8")
        return Exit.OK
    try:
        if options.command == "summary":
            say(summary())
        else:
            values = values_of(options.values) if options.values else {}
            release = rendered(values, name=options.name, namespace=options.namespace)
            say(yaml.safe_dump_all(release.documents, sort_keys=False, width=120))
    except HelmError as exc:
        print(f"chart: {exc}", file=sys.stderr)
        return REFUSED
    return Exit.OK
