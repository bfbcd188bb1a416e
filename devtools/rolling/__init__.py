"""A rolling restart under load: every node is restarted, one after another, while devices work and tasks come in.

`devices` are aip-device's own socket, executor and outbox with one tool; `load` dispatches and reads back; `restart`
does it and says what came of it; `command` is `scripts/rolling-restart`.
"""
