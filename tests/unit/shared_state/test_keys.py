"""The spelling of every key and channel: what is in Redis can be read off this table."""

from uuid import UUID

import pytest
from redis.crc import key_slot

from shared_state.keys import Keys, keys_of_session, live_together, new_session_id

KEYS = Keys("aip")
UUID_VERSION = 7

SPELLED = [
    (KEYS.leases(), "aip:{nodes}:leases"),
    (KEYS.node_info("n1"), "aip:{nodes}:node:n1"),
    (KEYS.reaper(), "aip:{nodes}:reaper"),
    (KEYS.node_clients("n1"), "aip:{node:n1}:clients"),
    (KEYS.registration("d1"), "aip:client:{c66}:d1"),
    (KEYS.inbox("d1"), "aip:inbox:{c66}:d1"),
    (KEYS.active("d1"), "aip:active:{c66}:d1"),
    (KEYS.asked("d1"), "aip:asked:{c66}:d1"),
    (KEYS.waiting("d1"), "aip:waiting:{c66}:d1"),
    (KEYS.waiting_bytes("d1"), "aip:waiting-bytes:{c66}:d1"),
    (KEYS.waiting_anywhere(), "aip:{waiting}:ends"),
    (KEYS.waiting_bytes_anywhere(), "aip:{waiting}:bytes"),
    (KEYS.files_anywhere(), "aip:{stored}:ends"),
    (KEYS.file_bytes_anywhere(), "aip:{stored}:bytes"),
    (KEYS.posted("d1", "m1"), "aip:posted:{c66}:2:d1:m1"),
    (KEYS.client_sessions("d1"), "aip:newest:{c66}:d1"),
    (KEYS.task("t1"), "aip:task:{t1}"),
    (KEYS.session("s1"), "aip:session:{s1}:s1"),
    (KEYS.session_events("s1"), "aip:steps:{s1}:s1"),
    (KEYS.session_files("s1"), "aip:files:{s1}:s1"),
    (KEYS.session_chunk("s1", "t1", 3), "aip:chunk:{s1}:3:2:t1:s1"),
    (KEYS.session_journal("s1"), "aip:journal:{s1}:s1"),
    (KEYS.due(), "aip:due"),
    (KEYS.batch("b1"), "aip:batch:{b1}"),
    (KEYS.idempotency("k1"), "aip:idempotency:{k1}"),
    (KEYS.sessions(), "aip:sessions"),
    (KEYS.events(), "aip:events"),
    (KEYS.channel("n1"), "aip:node:n1"),
    (KEYS.channel_prefix(), "aip:node:"),
]


@pytest.mark.parametrize(("built", "spelled"), SPELLED, ids=[spelled for _, spelled in SPELLED])
def test_keys_are_spelled_as_documented(built: str, spelled: str) -> None:
    assert built == spelled


def test_every_builder_is_in_the_table() -> None:
    builders = [name for name in vars(Keys) if not name.startswith("_") and name != "prefix"]
    assert len(SPELLED) == len(builders)


def test_the_keys_of_a_session_together_are_those_of_its_builders() -> None:
    for session_id in ("x", new_session_id("device-1")):
        alone = [KEYS.session(session_id), KEYS.session_events(session_id), KEYS.session_journal(session_id)]
        assert keys_of_session(KEYS, session_id) == alone


def test_no_two_builders_give_the_same_key() -> None:
    """One id used everywhere: a client called like a session must not be taken for it."""
    ids = {"x", "nodes", "node:x", "x:inbox", "client:x", "sessions"}
    built = [
        build(i)
        for i in ids
        for build in (
            KEYS.node_info,
            KEYS.node_clients,
            KEYS.registration,
            KEYS.inbox,
            KEYS.active,
            KEYS.asked,
            KEYS.waiting,
            KEYS.waiting_bytes,
            KEYS.client_sessions,
            KEYS.task,
            KEYS.session,
            KEYS.session_events,
            KEYS.session_files,
            KEYS.batch,
            KEYS.idempotency,
        )
    ]
    built += [KEYS.leases(), KEYS.reaper(), KEYS.sessions(), KEYS.events()]
    built += [KEYS.waiting_anywhere(), KEYS.waiting_bytes_anywhere(), KEYS.files_anywhere(), KEYS.file_bytes_anywhere()]
    assert len(set(built)) == len(built)


def test_all_keys_of_a_client_share_a_slot() -> None:
    of_client = (KEYS.registration, KEYS.inbox, KEYS.active, KEYS.asked, KEYS.client_sessions)
    keys = [build("d1") for build in of_client] + [KEYS.posted("d1", "m")]
    assert {key_slot(key.encode()) for key in keys} == {key_slot(b"c66")}


def test_all_keys_of_a_session_share_a_slot() -> None:
    keys = (KEYS.session("s1"), KEYS.session_events("s1"), KEYS.session_files("s1"), KEYS.session_chunk("s1", "t", 0))
    assert {key_slot(key.encode()) for key in keys} == {key_slot(b"s1")}


def test_a_session_that_the_cluster_names_lives_beside_its_client() -> None:
    """One script begins it, one ends it, in any Redis Cluster."""
    for client_id in ("d1", "device-7", "ä" * 256, "", "a:b"):
        session_id = new_session_id(client_id)
        assert UUID(session_id).version == UUID_VERSION
        assert live_together(session_id, client_id)
        slots = {key_slot(k.encode()) for k in (KEYS.session(session_id), KEYS.session_events(session_id))}
        assert slots == {key_slot(KEYS.inbox(client_id).encode())}


def test_ids_of_sessions_on_one_client_differ() -> None:
    assert len({new_session_id("d1") for _ in range(10_000)}) == len(range(10_000))


@pytest.mark.parametrize("session_id", ["s1", "galaxy@d1/1", "0" * 36, "c66"])
def test_a_session_that_somebody_else_named_lives_where_its_name_says(session_id: str) -> None:
    assert key_slot(KEYS.session(session_id).encode()) == key_slot(session_id.encode())


def test_a_uuid_of_somebody_else_lives_where_its_end_says() -> None:
    """That it ends like a client's tag is chance, and does no harm: all its keys are its own."""
    assert KEYS.session("4be0643f-1d98-573b-97cd-ca98a65347dd") == (
        "aip:session:{7dd}:4be0643f-1d98-573b-97cd-ca98a65347dd"
    )
    assert live_together("4be0643f-1d98-573b-97cd-ca98a6534c66", "d1")


def test_marks_of_messages_of_clients_whose_names_end_alike_differ() -> None:
    assert KEYS.posted("a", "b:c") != KEYS.posted("a:b", "c")
    assert KEYS.session_chunk("s", "t:1", 1) != KEYS.session_chunk("1:s", "t", 1)


def test_all_leases_share_a_slot() -> None:
    slots = {key_slot(k.encode()) for k in (KEYS.leases(), KEYS.node_info("a"), KEYS.node_info("b"), KEYS.reaper())}
    assert slots == {key_slot(b"nodes")}


def test_clusters_with_different_prefixes_share_no_key() -> None:
    other = Keys("other")
    assert other.session("s1") == "other:session:{s1}:s1"
    assert other.channel("n1") == "other:node:n1"


@pytest.mark.parametrize("prefix", ["", "a{b", "a}b", "a*", "a b", "a\nb"])
def test_a_prefix_that_would_change_the_meaning_of_keys_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="key prefix"):
        Keys(prefix)
