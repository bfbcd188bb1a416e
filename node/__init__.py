"""One server process: sockets, REST, sessions; everything that outlives it is in `shared_state`."""
