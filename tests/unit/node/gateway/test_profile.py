"""What a registration says of a client, read with care."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aip_cluster.protocol import ClientMessage, ClientMessageType
from node.gateway.profile import features_of, platform_of, profile_of, system_info_of
from tests.support.wire import json_values

HOSTILE = [None, 1, True, "text", [], {}, [1, None], {"x": 1}, "", "\n", "a,b", "x" * 10_000, ["x" * 10_000]]


def test_a_plain_profile_is_read() -> None:
    profile = {"platform": "Linux", "system_info": {"platform": "x", "supported_features": ["cli", "autonomous"]}}
    assert platform_of(profile) == "linux"
    assert features_of(profile) == {"cli", "autonomous"}
    assert system_info_of(profile) == profile["system_info"]


def test_the_platform_may_be_in_the_system_info_only() -> None:
    assert platform_of({"system_info": {"platform": "WINDOWS"}}) == "windows"
    assert platform_of({"platform": "", "system_info": {"platform": "mobile"}}) == "mobile"


def test_a_pushed_profile_may_be_the_system_info_itself() -> None:
    pushed = {"platform": "linux", "supported_features": ["cli"]}
    assert system_info_of(pushed) == pushed
    assert features_of(pushed) == {"cli"}


def test_without_metadata_nothing_is_known() -> None:
    profile = profile_of(ClientMessage(type=ClientMessageType.REGISTER))
    assert (profile, platform_of(profile), features_of(profile), system_info_of(profile)) == ({}, "", frozenset(), {})


@pytest.mark.parametrize("value", HOSTILE, ids=lambda v: ascii(v)[:20])
def test_a_hostile_platform_is_short_text_or_nothing(value: Any) -> None:
    for profile in ({"platform": value}, {"system_info": {"platform": value}}, {"system_info": value}):
        platform = platform_of(profile)
        assert isinstance(platform, str)
        assert len(platform) <= 32


@pytest.mark.parametrize("value", HOSTILE, ids=lambda v: ascii(v)[:20])
def test_hostile_features_are_plain_words_or_nothing(value: Any) -> None:
    for profile in (
        {"system_info": {"supported_features": value}},
        {"supported_features": value},
        {"system_info": {"supported_features": ["good", value]}},
        {"system_info": value},
    ):
        for word in features_of(profile):
            assert word.isprintable()
            assert "," not in word, "features are stored joined by commas"
            assert len(word) <= 64


def test_features_are_bounded_in_number() -> None:
    profile = {"system_info": {"supported_features": [f"f{i}" for i in range(10_000)]}}
    assert len(features_of(profile)) == 64


def test_an_empty_word_is_no_feature() -> None:
    """Stored and read again the set must be the same."""
    features = features_of({"supported_features": ["", "cli"]})
    assert frozenset(",".join(sorted(features)).split(",")) == features == {"cli"}


@given(st.dictionaries(st.sampled_from(["platform", "system_info", "supported_features"]), json_values))
def test_nothing_that_json_can_say_breaks_the_reading(profile: dict[str, Any]) -> None:
    assert isinstance(platform_of(profile), str)
    assert all(isinstance(f, str) for f in features_of(profile))
    assert isinstance(system_info_of(profile), dict)
