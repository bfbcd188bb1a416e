"""Real device agents, and what their commands leave on disk: how often each was carried out can be counted."""

import shlex
from pathlib import Path

from tests.integration.harness.cluster import Json, Node, command
from tests.integration.harness.patience import eventually
from tests.support.device_process import DeviceProcess

__all__ = ["Agent", "state_becomes"]


class Agent(DeviceProcess):
    """`aip-device`; it marks each command that it carries out, and takes as long for one as the test wants."""

    def __init__(self, device_id: str, directory: Path, ws_url: str) -> None:
        super().__init__(device_id, directory, ws_url)
        self._marks = directory / "marks"
        self._marks.mkdir()

    def mark(self, name: str, *, hold: bool = False) -> Json:
        """A command that marks `name`; with `hold` it ends only once `release` was called."""
        file, gate = shlex.quote(str(self._marks / name)), shlex.quote(str(self._marks / "open"))
        wait = f"; while [ ! -e {gate} ]; do sleep 0.05; done" if hold else ""
        return command("execute_command", command=f"echo x >> {file}{wait}", timeout=60)

    def release(self) -> None:
        """Let commands that are held end."""
        (self._marks / "open").touch()

    def times(self, name: str) -> int:
        """How often a command was carried out."""
        file = self._marks / name
        return len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0

    async def begun(self, name: str) -> None:
        """Wait until a command is under way."""
        await eventually(lambda: self.times(name), f"{name} is under way", within_s=20)

    async def on(self, node: Node, *, within_s: float = 30) -> None:
        """Wait until this node holds the device."""
        node_id = await node.node_id()

        async def held() -> bool:
            return await node.holder_of(self.device_id) == node_id

        await eventually(held, f"{self.device_id} is on {node.process.name}", within_s=within_s)


async def state_becomes(node: Node, session_id: str, *states: str, within_s: float = 30) -> str:
    """Wait for one of these states; which one it is."""
    found: list[str] = []

    async def reached() -> bool:
        found[:] = [await node.state_of(session_id)]
        return found[0] in states

    await eventually(reached, f"the session is {' or '.join(states)}", within_s=within_s)
    return found[0]
