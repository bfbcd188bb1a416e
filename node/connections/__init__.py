"""Client connections: one socket with its identity, its send queue and its keepalive; and the hub of them all."""
