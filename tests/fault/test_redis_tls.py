"""TLS with certificates of our own, and a user that may do only what a node needs."""

from pathlib import Path

import pytest

from devtools.topologies import Single, make_certificates
from shared_state import State
from shared_state.errors import StateUnavailable
from tests.fault.measures import ECHO
from tests.integration.conftest import MakeCluster
from tests.integration.harness.guests import Guests
from tests.integration.harness.redis_servers import RedisServers

pytestmark = pytest.mark.integration

USER = "user aip on >s3cret/+ ~aip:* &aip:* -@all +@read +@write +@scripting +@pubsub +@connection +time +wait"


@pytest.fixture
def redis(tmp_path: Path) -> RedisServers:
    certificates = make_certificates(tmp_path / "certificates")
    acl = tmp_path / "users.acl"
    acl.write_text(f"{USER}\nuser default on nopass ~* &* +@all\n", encoding="ascii")
    topology = Single(tmp_path / "redis", certificates=certificates, arguments=["--aclfile", str(acl)])
    return RedisServers(tmp_path, topology)


def url_of(redis: RedisServers, **parameters: object) -> str:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"rediss://aip:s3cret%2F%2B@127.0.0.1:{redis.port}/0?{query}"


async def test_a_cluster_runs_over_tls_as_a_user_with_few_rights(
    own_cluster: MakeCluster, guests: Guests, redis: RedisServers
) -> None:
    assert isinstance(redis.topology, Single)
    files = redis.topology.certificates
    assert files is not None
    redis.url = url_of(
        redis, ssl_ca_certs=files.authority, ssl_certfile=files.client_certificate, ssl_keyfile=files.client_key
    )
    cluster = own_cluster(2, redis)
    device = await guests.device(cluster.a)
    answer = await cluster.b.dispatch(device.client_id, ECHO)
    assert (await cluster.a.done(answer["task_name"]))["state"] == "completed"
    assert "could not be read" in cluster.a.process.log(), "what the check at start may not see, it says"


async def test_a_server_that_nobody_vouches_for_and_a_wrong_password_are_refused(redis: RedisServers) -> None:
    assert isinstance(redis.topology, Single)
    files = redis.topology.certificates
    assert files is not None
    redis.start()
    try:
        vouched = {"ssl_ca_certs": files.authority}
        for url, reason in (
            (url_of(redis), "cannot be reached"),
            (url_of(redis, **vouched).replace("s3cret", "guessed"), "credentials"),
            (url_of(redis, **vouched).replace("rediss://", "redis://").partition("?")[0], "cannot be reached|in time"),
        ):
            state = State(url, timeout_s=2.0)
            with pytest.raises(StateUnavailable, match=reason):
                await state.connection.ping()
            await state.close()
        state = State(url_of(redis, **vouched), timeout_s=2.0)
        await state.connection.ping()
        await state.close()
    finally:
        redis.dispose()
