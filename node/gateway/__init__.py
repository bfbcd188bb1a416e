"""The sockets of a node: who is connected, what they say, what is handed to them."""
