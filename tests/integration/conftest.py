"""Fixtures of the tests with real processes, and the logs of those processes in the report of a test that fails."""

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.harness.cluster import Cluster, Fleet, Json, Node
from tests.integration.harness.guests import Guests, unique
from tests.integration.harness.nginx import Front, Servers, nginx_binary
from tests.integration.harness.processes import Process
from tests.integration.harness.redis_servers import RedisServers
from tests.support.device_process import DeviceProcess
from tests.support.redis_server import STANDSTILL_MS, require_redis

LOG_TAIL_CHARS = 6_000
SHARED_SETTINGS = {"max_frame_bytes": 8 * 1024 * 1024}

MakeFleet = Callable[..., Fleet]
MakeCluster = Callable[..., Cluster]
MakeFront = Callable[..., Front]
MakeDevice = Callable[..., DeviceProcess]

_log_starts = pytest.StashKey[dict[Path, int]]()


# -- logs in reports -----------------------------------------------------------------------------------------------
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note where each running process's log stands, so that a failure shows this test's part only."""
    item.stash[_log_starts] = {p.log_path: p.log_path.stat().st_size for p in Process.known}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs to the report of a failure."""
    report = yield
    if report.failed:
        starts = item.stash.get(_log_starts, {})
        for process in Process.known:
            text = process.log(starts.get(process.log_path, 0))
            if text.strip():
                report.sections.append((f"log of {process.name}", text[-LOG_TAIL_CHARS:]))
    return report


# -- servers -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three nodes for all tests that break nothing."""
    require_redis()
    fleet = Fleet(tmp_path_factory.mktemp("shared"), 3, **SHARED_SETTINGS)
    try:
        fleet.start()
        fleet.redis.topology.tolerate_silence(STANDSTILL_MS)
        yield fleet
    finally:
        fleet.dispose()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the test's own."""
    # A node closes a connection that was idle for five seconds: at that very moment it must not be used again.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50, keepalive_expiry=4.0)
    async with httpx.AsyncClient(timeout=45.0, limits=limits, trust_env=False, verify=False) as client:  # noqa: S501
        yield client


@pytest.fixture
async def cluster(shared_fleet: Fleet, http: httpx.AsyncClient) -> AsyncIterator[Cluster]:
    """The shared nodes. A test on them must leave no error in their logs, and no key that lives for ever."""
    starts = {node: node.log_path.stat().st_size for node in shared_fleet.nodes}
    yield Cluster(shared_fleet, http)
    for node, start in starts.items():
        node.fail_if_ended()
        complaints = node.complaints(start)
        assert not complaints, f"{node.name} complains: {complaints[:5]}"
    assert shared_fleet.redis.immortal_keys() == []


@pytest.fixture
def own_cluster(tmp_path: Path, http: httpx.AsyncClient) -> Iterator[MakeCluster]:
    """Makes a cluster that the test may break: `own_cluster(2, echo_wait_s=0)`.

    Whatever happens to it, no node may log an error: outages are warnings.
    """
    require_redis()
    fleets: list[Fleet] = []

    def make(count: int, redis: RedisServers | None = None, /, **settings: object) -> Cluster:
        directory = tmp_path / f"fleet-{len(fleets)}"
        directory.mkdir()
        fleet = Fleet(directory, count, redis, **settings)
        fleets.append(fleet)
        fleet.start()
        return Cluster(fleet, http)

    yield make
    complaints = [(node.name, line[:300]) for fleet in fleets for node in fleet.nodes for line in node.complaints()]
    for fleet in fleets:
        fleet.dispose()
    assert not complaints, f"{len(complaints)} complaints: {complaints[:3]}"


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[MakeDevice]:
    """Starts a real device on a node, with tool servers of its own: `make_device(node, *servers)`."""
    started: list[DeviceProcess] = []

    def make(node: Node, *servers: Json) -> DeviceProcess:
        device_id = unique("lab")
        device = DeviceProcess(device_id, tmp_path / device_id, node.ws_url, *servers)
        started.append(device)
        device.launch()
        return device

    yield make
    for device in started:
        device.dispose()


@pytest.fixture
async def guests() -> AsyncIterator[Guests]:
    """Opens the sockets of the test."""
    everybody = Guests()
    yield everybody
    await everybody.leave()


@pytest.fixture(scope="session")
def small_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """What stands behind nginx where no node is needed."""
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.dispose()


@pytest.fixture
def make_front(tmp_path: Path, small_servers: Servers) -> Iterator[MakeFront]:
    """Puts nginx, configured with the given options of `render`, in front of two small servers."""
    nginx_binary()
    fronts: list[Front] = []

    def make(**options: object) -> Front:
        fronts.append(Front(tmp_path, small_servers, **options))
        return fronts[-1]

    yield make
    for front in fronts:
        front.dispose()


@pytest.fixture
def front(make_front: MakeFront) -> Front:
    """nginx without any options, in front of two small servers."""
    return make_front()
