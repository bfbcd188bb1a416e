"""The device agent: registers a machine with a cluster and carries out the commands that it is sent.

`aip-device start --server ws://host:port/ws --id NAME`. The protocol is AIP (see `aip`); the tools are those of an
MCP server that runs inside the agent.
"""
