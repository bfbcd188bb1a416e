"""What all tests share: Redis (a real one, and the embedded one), and a state over each."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings

from devtools.topologies import Cluster
from shared_state import State
from tests.support.backends import Backend
from tests.support.redis_server import STANDSTILL_MS, RedisServer, require_redis, running_redis

# No deadline: a slow machine is not a failure. In continuous integration the same examples every time.
settings.register_profile("aip", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("aip"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "aip")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis, one for every worker."""
    with running_redis() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A real Redis of this test alone, to be killed and started again."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real Redis Cluster, one for every worker."""
    require_redis()
    cluster = Cluster(tmp_path_factory.mktemp("redis-cluster"))
    try:
        cluster.start()
        cluster.tolerate_silence(STANDSTILL_MS)
        yield cluster
    finally:
        cluster.dispose()


@pytest.fixture(params=["fakeredis", "redis", "cluster"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """Every backend, one after the other; at the end every key must have had a time to live."""
    name: str = request.param
    if name == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    elif name == "cluster":
        cluster: Cluster = request.getfixturevalue("redis_cluster")
        url = cluster.url
    else:
        url = f"embedded://{uuid.uuid4().hex}"
    backend = Backend(name, url)
    yield backend
    await backend.close()


@pytest.fixture
async def real_backend(redis_server: RedisServer) -> AsyncIterator[Backend]:
    """The real backend only, for what the embedded one cannot show."""
    backend = Backend("redis", redis_server.url)
    yield backend
    await backend.close()


@pytest.fixture
def state(backend: Backend) -> State:
    """One process' view of the cluster, on each backend."""
    return backend.state()
