"""The command `scripts/scaling_model`: what a size needs, from measured costs; and whether the model is right."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from devtools.bench.errors import BenchError
from devtools.bench.processes import parse_cpus, pin
from devtools.bench.report import Report, merged
from devtools.bench.rows import Lab
from devtools.bootstrap import ROOT
from devtools.open_files import raise_open_files
from devtools.outcome import Exit, ScriptError, end_cleanly_on_signals, report, say
from devtools.scaling.check import Compared, Shard, compare, compare_shards
from devtools.scaling.costs import read_costs
from devtools.scaling.document import comparison, scaling, shards_table, sizes_table, write_scaling
from devtools.scaling.model import Assumptions

__all__ = ["main"]

FAILED = 1
GB = 2**30
DOCUMENT = ROOT / "docs" / "SCALING.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    end_cleanly_on_signals()
    options = _parse(argv)
    assumed = Assumptions(options.utilisation, options.connections, int(options.redis_gb * GB), options.retention_s)
    try:
        results = merged([Report.read(path) for path in options.results])
        if results.quick and options.document:
            raise ScriptError(Exit.USAGE, "what --quick measures goes into no document")
        costs = read_costs(results)
        say(sizes_table(costs, assumed))
        compared: list[Compared] = []
        shards: list[Shard] = []
        if options.check:
            raise_open_files()
            pin(os.getpid(), options.generator_cpus)
            lab = Lab(1, quick=False, server_cpus=options.server_cpus)
            compared = uvloop.run(compare(costs, lab))
            say(f"\n{comparison(compared)}")
            shards = uvloop.run(compare_shards(costs, lab))
            say(f"\n{shards_table(shards)}")
        if options.document:
            write_scaling(DOCUMENT, scaling(results, costs, assumed, compared, shards))
            say(f"\nWritten: {DOCUMENT}")
    except ScriptError as exc:
        return report("scaling_model", exc)
    except (BenchError, ValueError) as exc:
        print(f"scaling_model: {exc}", file=sys.stderr)
        return FAILED
    return Exit.OK


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    default = Assumptions()
    parser = argparse.ArgumentParser(
        prog="scripts/scaling_model",
        description="From results of scripts/bench: how many nodes and Redis shards a fleet needs, and what is full "
        "first.",
    )
    parser.add_argument("results", type=Path, nargs="+", metavar="FILE", help="results.json of scripts/bench --out")
    parser.add_argument("--check", action="store_true", help="run small sizes, and show predicted beside measured")
    parser.add_argument("--document", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)}")
    parser.add_argument(
        "--utilisation", type=float, default=default.utilisation, metavar="SHARE", help="of a processor (default: 0.6)"
    )
    parser.add_argument(
        "--connections", type=int, default=default.connections_per_node, metavar="N", help="sockets a node (15000)"
    )
    parser.add_argument("--redis-gb", type=float, default=16.0, metavar="GB", help="memory of a shard (16)")
    parser.add_argument(
        "--retention-s", type=int, default=default.retention_s, metavar="S", help="result_ttl_s of the nodes (86400)"
    )
    parser.add_argument("--server-cpus", type=parse_cpus, default=(0,), metavar="CPUS", help="as of scripts/bench")
    parser.add_argument("--generator-cpus", type=parse_cpus, default=(1,), metavar="CPUS", help="as of scripts/bench")
    options = parser.parse_args(argv)
    if not 0 < options.utilisation <= 1 or options.connections < 1 or options.redis_gb <= 0 or options.retention_s < 1:
        parser.error("--utilisation: above 0, at most 1; the others: above 0")
    return options
