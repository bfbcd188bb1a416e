"""What developers and tests run a cluster with. `scripts/*` are thin commands over it.

`up`, `down` and `gate` run on the machine's own Python before anything is installed: they, and what they import
(`cluster`, `demo`, `bootstrap`, `servers`, `stages`, `processes`, `web`, `open_files`, `outcome`), use the standard
library only (and `aip_cluster.ctl.rest`, which does, too), and import downwards in that order. Everything else runs
inside the virtual environment.

What tests, chaos, bench and dashboards share: `topologies` are Redis servers, `service` is a process that may be
started again, `proxy` the network before one, `model_server` a scripted model.
"""
