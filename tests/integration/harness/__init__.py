"""Real processes and raw peers for the integration tests: Redis, nodes, devices and orchestrators on free ports.

`processes` starts, freezes and kills; `cluster` puts servers together and speaks REST to them; `peers` opens sockets;
`ufo` and `devices` say on them, byte for byte, what the clients in the field say. Nothing here is a mock.
"""
