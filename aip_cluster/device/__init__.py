"""The device agent: registers a machine with a cluster and carries out the commands that it is sent.

`aip-device start --server ws://host:port/ws --id NAME`. The protocol is AIP (see `aip`); the tools are those of MCP
servers: one that runs inside the agent, and any that the configuration names. `aip-device local` runs one task with a
node in the same process.
"""
