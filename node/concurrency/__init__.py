"""Tasks of asyncio that have an owner and a close; work off the event loop."""
