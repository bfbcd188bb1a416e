"""What `scripts/up`, `scripts/down` and `scripts/test` are made of; standard library only.

It runs before anything is installed, on the machine's own Python. Imports go down this list, never up:
`up`, `down`, `gate` (the commands) - `cluster`, `demo` - `bootstrap`, `servers` - `processes`, `web`, `open_files`,
`outcome`.
Apart from these, and only inside the environment: `topologies`, Redis servers for tests and for breaking things;
`rolling`, `bench`, `scaling`, `dashboards`, each a command of its own.
"""
