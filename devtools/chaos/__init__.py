"""What `scripts/chaos` is made of: a cluster under test, what breaks it, who uses it, and what must be true afterwards.

Unlike the rest of `devtools` it runs inside the project's virtual environment. Imports go down this list, never up:
`command` - `report` - `run` - `inspection`, `invariants` - `load`, `probes`, `outages` - `injectors` - `model` -
`constellations`, `devices`, `tasks` - `wire`, `line` - `cluster`, `replication`, `evidence` - `ledger`, `schedule` -
`plan`.
"""
