"""This node among nodes: its lease, the reaper, the drain, the timers, and what arrives over the bus."""
