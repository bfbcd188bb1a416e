"""What a registration says about a client, read with care: a peer chose every byte of it."""

from typing import Any

from aip_cluster.protocol import ClientMessage

__all__ = ["features_of", "platform_of", "profile_of", "system_info_of"]

PLATFORM_CHARS = 32
FEATURES_BOUND = 64
FEATURE_CHARS = 64


def profile_of(message: ClientMessage) -> dict[str, Any]:
    """The metadata of a registration or of a pushed profile."""
    return message.metadata or {}


def system_info_of(profile: dict[str, Any]) -> dict[str, Any]:
    """UFO's `system_info`; a pushed profile may be the system info itself."""
    info = profile.get("system_info")
    if isinstance(info, dict):
        return info
    return profile if "supported_features" in profile else {}


def platform_of(profile: dict[str, Any]) -> str:
    """The platform in lower case: as the registration says, else as its system info does, else ''."""
    for source in (profile, system_info_of(profile)):
        value = source.get("platform")
        if isinstance(value, str) and value:
            return value.lower()[:PLATFORM_CHARS]
    return ""


def features_of(profile: dict[str, Any]) -> frozenset[str]:
    """`system_info.supported_features`: 64 at most, plain words only."""
    listed = system_info_of(profile).get("supported_features")
    if not isinstance(listed, list):
        return frozenset()
    words = [
        f for f in listed if isinstance(f, str) and f.isprintable() and "," not in f and 0 < len(f) <= FEATURE_CHARS
    ]
    return frozenset(words[:FEATURES_BOUND])
