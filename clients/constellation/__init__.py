"""The SDK for orchestrators: run tasks on the devices of a cluster, many at a time.

async with ConstellationClient("ws://host:port/ws", name="night-build") as cluster:
    for device in await cluster.devices():
        print(device["client_id"], device["platform"])
    result = await cluster.run("lab-1", "free some disk space")
"""

from clients.constellation.client import ConstellationClient, TaskResult
from clients.constellation.errors import (
    ConnectionLost,
    ConstellationError,
    DeviceNotConnected,
    RegistrationRefused,
    RequestFailed,
    TaskRefused,
    TaskTimeout,
)

__all__ = [
    "ConnectionLost",
    "ConstellationClient",
    "ConstellationError",
    "DeviceNotConnected",
    "RegistrationRefused",
    "RequestFailed",
    "TaskRefused",
    "TaskResult",
    "TaskTimeout",
]
