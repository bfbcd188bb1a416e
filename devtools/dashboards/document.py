"""`docs/DASHBOARDS.md`: what the dashboards show, and what each of their queries said of a real run."""

from collections.abc import Sequence

from devtools.dashboards.answers import Asked
from devtools.dashboards.boards import BOARDS
from devtools.dashboards.figures import legend, most_of_them, value
from devtools.dashboards.model import Dashboard

__all__ = ["PICTURES", "document"]

# Of these there is a picture, too.
PICTURES = ("overview", "tasks", "sockets")
SERIES = 3
INTRODUCTION = """# Dashboards

Written by `scripts/dashboards --picture`; what stands here was measured, not typed.

Five dashboards for Grafana lie in `helm/aip-cluster/dashboards`; the chart brings them as ConfigMaps for the sidecar,
and `compose.yaml` provisions them. They are generated: `devtools/dashboards/boards` holds one file for each, where a
panel is changed, and `scripts/dashboards` writes the JSON. Their variables are data source, cluster, namespace, job and
instance; panels whose description says so read the recording rules of `helm/aip-cluster/rules`.

## Reading them

Begin with the *Overview*, from top to bottom: does it serve, how well, and what does it stand on. Then:

- dispatches fail or are slow: *Redis* first (nothing works without it), then *Nodes* (event loop, processor);
- dispatches are answered, tasks come late: *Tasks*, row Stages, tells which stage; accepted → delivered is the bus
  (*Connections and bus*), delivered → acknowledged is the device and its network;
- sessions end otherwise than completed: *Tasks*, row Sessions, and row Models where a model plans;
- clients come and go: *Connections and bus*, row Connections: closed by a node, refused, taken over;
- one node differs: *Nodes*; choose it as instance on any dashboard.

An alert names its [runbook](runbooks/README.md). A median and a 99 % that part from each other mean that some suffer
and most do not: choose single instances. Gaps in durations mean that nothing happened to be measured; ratios and rates
are 0 then.
"""


def document(answers: Sequence[Asked], how: str) -> str:
    """The document; `how` says what was run."""
    parts = [INTRODUCTION, "## What they showed\n", how, ""]
    parts += [_section(board, [asked for asked in answers if asked.dashboard is board]) for board in BOARDS]
    return "\n".join(parts)


def _section(board: Dashboard, answers: list[Asked]) -> str:
    lines = [f"### {board.title}\n", board.description, ""]
    if board.name in PICTURES:
        lines += [f"![{board.title}](pictures/dashboard-{board.name}.svg)", ""]
    lines += ["| panel | most of it, in the run's last ten seconds | query |", "|---|---|---|"]
    lines += [f"| {asked.panel.title} | {_said(asked)} | `{_plain(asked.query.expr)}` |" for asked in answers]
    return "\n".join([*lines, ""])


def _said(asked: Asked) -> str:
    if asked.error:
        return f"**error**: {asked.error}"
    shown = most_of_them(asked.series, SERIES)
    text = ", ".join(f"{legend(asked, one)} {value(one.last, asked.panel.unit)}" for one in shown)
    left = len(asked.series) - len(shown)
    return f"{text or '**empty**'}{f' (and {left} more)' if left else ''}"


def _plain(promql: str) -> str:
    return promql.replace("|", "\\|")
