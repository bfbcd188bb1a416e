"""What a run came to: a summary in Markdown, the same and more in JSON, and each violation with its timeline."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from devtools.chaos.invariants import Violation
from devtools.chaos.ledger import TERMINAL, Deed, Outcome, Task
from devtools.chaos.outages import longest_by_kind
from devtools.chaos.run import Result
from devtools.chaos.schedule import FaultKind

__all__ = ["as_json", "as_markdown", "explain"]

TIMELINE_LINES = 80
SHOWN_VIOLATIONS = 25


def as_markdown(result: Result) -> str:
    """The summary, a section of a document."""
    plan, verdict = result.plan, result.verdict
    counts = _counts(result)
    verdict_line = (
        f"**{len(verdict.violations)} violations**, {len(verdict.lost_by_failover)} lost by failover; "
        f"settled {result.settled_s:.1f} s after the last load."
    )
    lines = [
        f"### Seed {plan.seed}: {plan.seconds:g} s, {plan.nodes} nodes, {plan.devices} devices, Redis {plan.redis}",
        "",
        verdict_line,
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in counts.items()),
        "",
        "| fault | injected | longest without service, s |",
        "|---|---|---|",
        *_fault_rows(result),
        "",
    ]
    return "\n".join(lines)


def _counts(result: Result) -> dict[str, str]:
    tasks = result.evidence.ledger.tasks.values()
    ends, reasons = _ends(result)
    deeds = Counter(entry.deed for entry in result.evidence.ledger.entries)
    largest = max(result.evidence.largest_memory.values(), default=0)
    window = [f"{w.why}: {w.to_s - w.from_s:.2f} s" for w in result.evidence.loss_windows]
    return {
        "faults injected": str(len(result.injected)) + (f", left out {len(result.skipped)}" if result.skipped else ""),
        "tasks sent": str(len(tasks)),
        "accepted": str(sum(t.outcome is Outcome.ACCEPTED for t in tasks)),
        "refused": _listed(_refusals(tasks)) or "0",
        "never answered": str(sum(t.outcome is Outcome.UNKNOWN for t in tasks)),
        "ended": _listed(ends),
        "failed, cancelled or timed out because": _listed(reasons),
        "sockets lost and made again": f"{deeds[Deed.DISCONNECTED]}, attempts that failed {deeds[Deed.NOT_ADMITTED]}",
        "requests without service": ", ".join(f"{g.failed} of {g.served + g.failed} {g.name}" for g in result.gauges),
        "largest memory of a node": f"{largest >> 20} MiB (bound {result.evidence.memory_bound >> 20} MiB)",
        "largest replication lag seen": f"{result.largest_lag_s * 1000:.0f} ms",
        "windows in which a failover may lose writes": "; ".join(window) or "none",
    }


def _ends(result: Result) -> tuple[Counter[str], Counter[str]]:
    """Terminal states of the tasks that exist, and why those that did not complete did not."""
    ends: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for readings in result.evidence.readings.values():
        last = next((r for r in readings if r.state in TERMINAL), None)
        if last is not None:
            ends[last.state] += 1
            if last.state != "completed":
                reasons[_reason(last.error)] += 1
    return ends, reasons


def _reason(error: str | None) -> str:
    """An error without what is particular to its task."""
    text = (error or "no reason").partition(": chaos-")[0]
    return "Task timed out" if text.startswith("Task timed out") else text[:90]


def _refusals(tasks: Iterable[Task]) -> Counter[str]:
    """Refused tasks by status, as their senders were told."""
    refused = [t for t in tasks if t.outcome is Outcome.REFUSED]
    return Counter((t.refusal.split(maxsplit=1) or [""])[0] if t.via == "REST" else t.refusal[:60] for t in refused)


def _fault_rows(result: Result) -> Iterator[str]:
    injected = Counter(i.fault.kind for i in result.injected)
    longest = longest_by_kind(result.gauges, result.injected)
    for kind in FaultKind:
        if injected[kind]:
            length = longest.get(kind.value)
            yield f"| {kind.value} | {injected[kind]} | {'-' if length is None else f'{length:.2f}'} |"
    if "none" in longest:
        yield f"| (no fault before it) | | {longest['none']:.2f} |"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.most_common())


def as_json(result: Result) -> str:
    """Everything that the summary was made of, and the violations."""
    plan = result.plan
    content: dict[str, Any] = {
        "seed": plan.seed,
        "seconds": plan.seconds,
        "nodes": plan.nodes,
        "devices": plan.devices,
        "redis": plan.redis,
        "summary": _counts(result),
        "answers": result.evidence.ledger.answers,
        "faults": [asdict(i) for i in result.injected],
        "skipped": result.skipped,
        "outages": {gauge.name: [asdict(o) for o in gauge.outages] for gauge in result.gauges},
        "longest_outage_s": longest_by_kind(result.gauges, result.injected),
        "loss_windows": [asdict(w) for w in result.evidence.loss_windows],
        "largest_lag_s": result.largest_lag_s,
        "violations": [{"rule": v.rule, "text": v.text} for v in result.verdict.violations],
        "lost_by_failover": [{"rule": v.rule, "text": v.text} for v in result.verdict.lost_by_failover],
    }
    return json.dumps(content, indent=1, default=str) + "\n"


def explain(result: Result) -> str:
    """Each violation with its timeline; of very many, the first ones, and how many there are of each rule."""
    violations = result.verdict.violations
    lines: list[str] = []
    for violation in violations[:SHOWN_VIOLATIONS]:
        lines += ["", f"VIOLATION ({violation.rule}): {violation.text}", *_timeline(result, violation)]
    if len(violations) > SHOWN_VIOLATIONS:
        rest = Counter(v.rule for v in violations[SHOWN_VIOLATIONS:])
        lines += ["", f"and {len(violations) - SHOWN_VIOLATIONS} more: {_listed(rest)}"]
    for violation in result.verdict.lost_by_failover:
        lines += ["", f"lost by failover ({violation.rule}): {violation.text}"]
        if violation.rule != "readable":
            lines += _timeline(result, violation)
    return "\n".join(lines)


def _timeline(result: Result, violation: Violation) -> list[str]:
    if violation.task is None:
        return []
    entries = result.evidence.ledger.timeline(violation.task)
    shown = [f"    {entry}" for entry in entries[:TIMELINE_LINES]]
    return shown + ([f"    and {len(entries) - TIMELINE_LINES} more"] if len(entries) > TIMELINE_LINES else [])
