"""The SDK for orchestrators: run tasks on the devices of a cluster, one by one or as a plan.

async with ConstellationClient("ws://host:port/ws", name="night-build") as cluster:
    for device in await cluster.devices():
        print(device["client_id"], device["platform"])
    result = await cluster.run("lab-1", "free some disk space")
    report = await run_plan(cluster, load_plan("nightly.yaml"))
    print(report.status, report.results)
"""

from aip_cluster.constellation.client import ConstellationClient, TaskResult
from aip_cluster.constellation.errors import (
    ConnectionLost,
    ConstellationError,
    DeviceNotConnected,
    PlanError,
    Problem,
    RegistrationRefused,
    RequestFailed,
    TaskRefused,
    TaskTimeout,
)
from aip_cluster.constellation.plan import Needs, Plan, PlanCommand, Task, load_plan, parse_plan
from aip_cluster.constellation.report import Report, TaskReport
from aip_cluster.constellation.runner import PlanRun, run_plan

__all__ = [
    "ConnectionLost",
    "ConstellationClient",
    "ConstellationError",
    "DeviceNotConnected",
    "Needs",
    "Plan",
    "PlanCommand",
    "PlanError",
    "PlanRun",
    "Problem",
    "RegistrationRefused",
    "Report",
    "RequestFailed",
    "Task",
    "TaskRefused",
    "TaskReport",
    "TaskResult",
    "TaskTimeout",
    "load_plan",
    "parse_plan",
    "run_plan",
]
