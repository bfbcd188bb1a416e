"""Devices: what a listing says of them, and which tasks they fit."""

from typing import Any

import pytest

from aip_cluster.constellation import Needs, Plan, Task
from aip_cluster.constellation.devices import Device, device_problems, why_unfit

LISTED = {
    "client_id": "lab-1",
    "client_type": "device",
    "platform": "Linux",
    "features": ["cli"],
    "tags": ["rack-1"],
    "profile": {
        "system_info": {
            "memory_total_gb": 7.5,
            "supported_features": ["gui"],
            "tags": ["lab"],
            "custom_metadata": {"tags": ["gpu"]},
        },
        "memory": {"total_gb": 8, "available_gb": 3.5},
    },
}


def test_a_listing_is_read_from_all_its_places() -> None:
    device = Device.of(LISTED)
    assert device == Device("lab-1", "linux", frozenset({"cli", "gui"}), frozenset({"rack-1", "lab", "gpu"}), 8.0, 3.5)
    assert Device.of({"client_id": "x", "profile": {"system_info": {"platform": "darwin", "memory_total_gb": 4}}}) == (
        Device("x", "darwin", memory_total_gb=4.0)
    )


@pytest.mark.parametrize("junk", [None, 3, "text", [1], {"system_info": [], "memory": "much", "tags": {"a": 1}}])
def test_what_a_device_says_wrongly_counts_as_not_said(junk: Any) -> None:
    assert Device.of({"client_id": "x", "profile": junk, "features": junk, "tags": junk, "platform": junk}) in (
        Device("x"),
        Device("x", platform="text"),
    )
    assert Device.of({"client_id": "x", "profile": {"memory": {"total_gb": True}}}).memory_total_gb is None


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({}, None),
        ({"platform": "LINUX", "tags": ["lab", "gpu"], "features": ["gui"]}, None),
        ({"min_memory_total_gb": 8, "min_memory_free_gb": 3.5}, None),
        ({"platform": "windows"}, "platform is 'linux'"),
        ({"tags": ["lab", "x", "y"]}, "has no tag 'x', 'y'"),
        ({"features": ["x"]}, "has no feature 'x'"),
        ({"min_memory_total_gb": 9}, "total memory is 8 GB"),
        ({"min_memory_free_gb": 4}, "free memory is 3.5 GB"),
    ],
)
def test_a_device_fits_what_it_has(needs: dict[str, Any], reason: str | None) -> None:
    task = Task(id="a", request="x", needs=Needs.model_validate(needs))
    assert why_unfit(Device.of(LISTED), task) == reason


def test_what_is_not_known_does_not_fit() -> None:
    task = Task(id="a", request="x", needs=Needs(min_memory_free_gb=1))
    assert why_unfit(Device("x"), task) == "free memory is unknown"


def test_tasks_that_no_device_fits_are_named_with_the_reasons() -> None:
    plan = Plan(
        name="p",
        tasks=[
            Task(id="a", request="x", device="d0"),
            Task(id="b", request="x", device="gone"),
            Task(id="c", request="x", needs=Needs(platform="windows")),
        ],
    )
    found = [str(problem) for problem in device_problems(plan, [Device("d1", "linux"), Device("d0")])]
    assert found == [
        "task 'b', device: 'gone' is not connected; connected: d0, d1",
        "task 'c', needs: no connected device fits: d0 (platform is 'unknown'), d1 (platform is 'linux')",
    ]
    many = [Device(f"d{n}") for n in range(20)]
    assert "and 12 more" in str(device_problems(plan, many)[0])
    assert "connected: none" in str(device_problems(plan, [])[0])
