"""Looks into the cluster when everything is quiet: every task on every node, every key in Redis, every log.

Nothing here judges; it turns what is found into `Evidence`. What may lag a moment behind (a node's description of
itself, a registration after the last reconnection) is looked at again until it agrees, or for `AGREE_S`.
"""

import asyncio
import bisect
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from devtools.chaos.cluster import ClusterUnderTest
from devtools.chaos.evidence import Complaint, Disagreement, KeyFinding, Reading
from devtools.chaos.ledger import TERMINAL, Ledger, Outcome, Task, digest_of
from devtools.chaos.tasks import EFFECTS_FILE, TaskMaker, body_of
from devtools.topologies import Topology
from shared_state.keys import NEVER_MS, TAG_CHARS, Keys, new_session_id

__all__ = ["Inspector", "complaints_in", "known_key"]

AGREE_S = 20.0
SERVE_S = 25.0
REQUEST_S = 20.0
AT_ONCE = 16
NO_EXPIRY = -1
SCAN_COUNT = 1_000
HARMLESS = ("INFO", "WARNING", "DEBUG")
# Lines of a log that look like an error and are none, each with its reason. None so far.
TOLERATED: tuple[tuple[re.Pattern[str], str], ...] = ()


@dataclass
class Inspector:
    """Asks a cluster that is whole again. `clients` are the ids that must be registered now."""

    cluster: ClusterUnderTest
    ledger: Ledger
    clients: Sequence[str]
    http: httpx.AsyncClient

    # -- tasks -----------------------------------------------------------------------------------------------------
    async def settle(self, within_s: float) -> None:
        """Returns when every task that exists has ended, or when the time is over."""
        deadline_s = self.ledger.now_s + within_s
        under_way = [t for t in self.ledger.tasks.values() if not t.sightings and t.outcome is not Outcome.REFUSED]
        for node in cycle(self.cluster.nodes):
            ended: set[str] = set()

            async def look(task: Task, node: str = node, ended: set[str] = ended) -> None:
                if await self._has_ended(task, node):
                    ended.add(task.name)

            await self._each(under_way, look)
            under_way = [task for task in under_way if task.name not in ended]
            if not under_way or self.ledger.now_s > deadline_s:
                return
            await asyncio.sleep(0.5)

    async def _has_ended(self, task: Task, node: str) -> bool:
        """Whether no session of the task is under way, as far as this node knows; one that is lost is not."""
        found = await self._read(task, node)
        for reading, body in found:
            if reading.state in TERMINAL:
                self.ledger.saw(task, node, reading.state, body.get("result"), body.get("error"))
        return all(reading.state in TERMINAL or not reading.state for reading, _ in found)

    async def read_all(self) -> dict[str, list[Reading]]:
        """Every task on every node, as it is now."""
        readings: dict[str, list[Reading]] = {}

        async def read(pair: tuple[Task, str]) -> None:
            task, node = pair
            readings.setdefault(task.name, []).extend(reading for reading, _ in await self._read(task, node))

        await self._each([(t, n) for t in self.ledger.tasks.values() for n in self.cluster.nodes], read)
        return readings

    async def _read(self, task: Task, node: str) -> list[tuple[Reading, dict[str, Any]]]:
        """The task's sessions on a node; by the task's name where no session is known."""
        known = sorted(task.sessions) or ([task.session_id] if task.session_id else [])
        if not known:
            body = await self._get(node, f"/api/task_result/{task.name}")
            return [(_reading(node, str(body.get("session_id", "")), body), body)]
        bodies = [(s, await self._get(node, f"/api/sessions/{quote(s, safe='')}")) for s in known]
        return [(_reading(node, session_id, body), body) for session_id, body in bodies]

    async def _get(self, node: str, path: str) -> dict[str, Any]:
        """The body of an answer; empty for 404, and `state` says what else was answered."""
        answer = await self.http.get(f"{self.cluster.node_url(node)}{path}")
        if answer.status_code == 404:
            return {}
        if answer.status_code != 200:
            return {"state": f"HTTP {answer.status_code}"}
        body: dict[str, Any] = answer.json()
        return body

    @staticmethod
    async def _each(items: Iterable[Any], work: Callable[[Any], Any]) -> None:
        """`work` for each item, a few at once."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(item: Any) -> None:
            async with turns:
                await work(item)

        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(one(item))

    # -- does it work again ----------------------------------------------------------------------------------------
    async def roll_call(self, devices: Sequence[str], maker: TaskMaker) -> list[str]:
        """A task for every device, asked of the nodes in turn: who did not complete it, and why."""
        nodes = list(self.cluster.nodes)
        outcomes = await asyncio.gather(
            *(self._call(device, nodes[i % len(nodes)], maker) for i, device in enumerate(devices))
        )
        return [outcome for outcome in outcomes if outcome]

    async def _call(self, device: str, node: str, maker: TaskMaker) -> str:
        task = maker.make(device, "roll call")
        task.fails, task.took_ms, task.timeout_s = False, 10, SERVE_S
        self.ledger.sent(task)
        answer = await self.http.post(f"{self.cluster.node_url(node)}/api/dispatch", json=body_of(task))
        if answer.status_code != 200:
            self.ledger.refused(task, node, answer.text[:200])
            return f"{device}, over {node}: {answer.status_code} {answer.text[:200]}"
        self.ledger.accepted(task, answer.json()["session_id"], node)
        result = await self._get(node, f"/api/task_result/{task.name}?wait={REQUEST_S - 2:g}")
        if result.get("state") == "completed":
            self.ledger.saw(task, node, "completed", result.get("result"), result.get("error"))
            return ""
        return f"{device}, over {node}: {result.get('state') or result.get('status')} {result.get('error') or ''}"

    # -- who is where ----------------------------------------------------------------------------------------------
    async def disagreements(self, connected: Callable[[], Iterable[str]]) -> list[Disagreement]:
        """Where registry, leases and sockets differ; `connected` are those who hold a socket by their own word."""
        deadline_s = self.ledger.now_s + AGREE_S
        while True:
            found = await self._disagreements(set(connected()))
            if not found or self.ledger.now_s > deadline_s:
                return found
            await asyncio.sleep(0.5)

    async def _disagreements(self, connected: set[str]) -> list[Disagreement]:
        found = [
            Disagreement(f"{client} holds no socket", client) for client in self.clients if client not in connected
        ]
        alive: dict[str, str] = {}
        for name in self.cluster.nodes:
            alive[name] = str((await self._get(name, "/api/health")).get("node_id"))
        holders: dict[str, set[str]] = {}
        for name in self.cluster.nodes:
            listed = {n["node_id"]: n for n in (await self._get(name, "/api/nodes")).get("nodes", [])}
            if set(listed) != set(alive.values()):
                text = f"{name} lists the nodes {sorted(listed)}, alive are {sorted(alive.values())}"
                found.append(Disagreement(text))
            sockets = sum(int(n.get("connections") or 0) for n in listed.values())
            if sockets != len(self.clients):
                text = f"{name} says that {sockets} sockets are held; {len(self.clients)} clients are there"
                found.append(Disagreement(text))
            details = (await self._get(name, "/api/clients?detail=1")).get("clients") or []
            for client in details:
                holders.setdefault(client["client_id"], set()).add(client["node_id"])
            missing = set(self.clients) - {c["client_id"] for c in details}
            found += [Disagreement(f"{name} does not know of {client}", client) for client in sorted(missing)]
        for client, nodes in holders.items():
            if len(nodes) > 1 or not nodes <= set(alive.values()):
                text = f"{client} is held by {sorted(nodes)}, alive are {sorted(alive.values())}"
                found.append(Disagreement(text, client))
            if client not in self.clients:
                found.append(Disagreement(f"{client} is registered, and nobody is there", client))
        return found

    # -- Redis -----------------------------------------------------------------------------------------------------
    async def keys(self) -> list[KeyFinding]:
        """Keys that should not be so."""
        deadline_s = self.ledger.now_s + AGREE_S
        while True:
            async with self.cluster.redis_lock:
                found = await asyncio.to_thread(self._scan)
            if not found or self.ledger.now_s > deadline_s:
                return found
            await asyncio.sleep(0.5)

    def _scan(self) -> list[KeyFinding]:
        topology = self.cluster.redis
        return [*_strange_keys(topology), *self._leftovers(topology, Keys())]

    def _leftovers(self, topology: Topology, keys: Keys) -> Iterator[KeyFinding]:
        for client in self.clients:
            inbox = keys.inbox(client)
            waiting: Any = topology.holder(inbox).client.xlen(inbox)
            if waiting:
                yield KeyFinding(inbox, f"{waiting} messages wait for a client that is connected")
            active = keys.active(client)
            members: Any = topology.holder(active).client.zrangebyscore(active, "-inf", f"({NEVER_MS}")
            for member in members:
                session = keys.session(member.decode())
                found: Any = topology.holder(session).client.hmget(session, "order", "state")
                order, state = found
                if order is None or (state or b"").decode() in TERMINAL:
                    text = f"session {member.decode()} has ended ({state}), and counts as active"
                    yield KeyFinding(active, text, member.decode())
                elif state is None or state == b"created":
                    text = f"session {member.decode()} waits for a device that is connected"
                    yield KeyFinding(active, text, member.decode())

    # -- files -----------------------------------------------------------------------------------------------------
    def collect_effects(self) -> None:
        """What real devices have done, from the files that their commands wrote."""
        for name, service in self.cluster.devices.items():
            path = self.cluster.workdir(name) / EFFECTS_FILE
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
                at, _, effect = line.partition(" ")
                life = bisect.bisect(service.starts, float(at))
                self.ledger.executed(name, life, "", effect, at_s=self.ledger.run_time_of(float(at)))

    def complaints(self) -> list[Complaint]:
        """Errors in the logs of nodes and devices, over all their lives."""
        logs = [p for s in [*self.cluster.nodes.values(), *self.cluster.devices.values()] for p in s.log_paths()]
        return [complaint for path in logs for complaint in complaints_in(path)]


def _reading(node: str, session_id: str, body: dict[str, Any]) -> Reading:
    state = str(body.get("state") or body.get("status") or "")
    result = body.get("result")
    text = orjson.dumps(result).decode() if result is not None else ""
    return Reading(node, session_id, state, digest_of(result), body.get("error"), text)


def _strange_keys(topology: Topology) -> Iterator[KeyFinding]:
    for server in topology.primaries():
        client = server.client
        names = list(client.scan_iter(count=SCAN_COUNT))
        lives: list[int] = []
        for start in range(0, len(names), SCAN_COUNT):
            pipeline = client.pipeline(transaction=False)
            for name in names[start : start + SCAN_COUNT]:
                pipeline.pttl(name)
            lives += pipeline.execute()
        for name, life in zip(names, lives, strict=True):
            key = name.decode()
            if life == NO_EXPIRY:
                yield KeyFinding(key, f"has no time to live ({server.name})")
            if not known_key(key):
                yield KeyFinding(key, f"is of no kind that is known ({server.name})")


def _patterns() -> list[re.Pattern[str]]:
    """What keys look like, from their builders: whatever those spell is known here too."""
    mark, keys, found = "\x00", Keys(), []
    for name, build in inspect.getmembers(keys, inspect.ismethod):
        if name.startswith(("_", "channel")):
            continue
        spelled = build(*[mark] * len(inspect.signature(build).parameters))
        pattern = re.escape(spelled).replace(mark, ".+")
        # What follows from an id: its tag, and its length.
        pattern = pattern.replace(re.escape(new_session_id(mark)[-TAG_CHARS:]), ".+").replace(":1:", r":\d+:")
        found.append(re.compile(pattern, re.DOTALL))
    return found


PATTERNS = _patterns()


def known_key(key: str) -> bool:
    """Whether some builder of `shared_state.keys` makes such a key."""
    return any(pattern.fullmatch(key) for pattern in PATTERNS)


def complaints_in(path: Path) -> list[Complaint]:
    """Records above WARNING, and what is no record at all: a traceback, a warning of the interpreter."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    # What a killed process was about to write when it died is no line.
    lines = text[: text.rfind("\n") + 1].splitlines()
    strange = [line for line in lines if not any(level in line.split(maxsplit=3)[1:3] for level in HARMLESS)]
    return [
        Complaint(path.name, line[:400])
        for line in strange
        if line.strip() and not any(pattern.search(line) for pattern, _ in TOLERATED)
    ]
