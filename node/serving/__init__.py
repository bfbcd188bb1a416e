"""HTTP and WebSocket on the wire: protocols, listeners, limits, proxies, and who may ask at all."""
