"""What runs elsewhere than on a node: the device agent and the SDK for orchestrators.

Nothing here imports the node or the shared state: a machine that only runs a client needs neither.
"""
