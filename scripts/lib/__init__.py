"""What `scripts/up`, `scripts/down` and `scripts/test` are made of; standard library only.

It runs before anything is installed, on the machine's own Python. Imports go down this list, never up:
`up`, `down`, `gate` (the commands) - `cluster`, `demo` - `bootstrap`, `servers` - `processes`, `web`, `outcome`.
"""
