"""`scripts/scaling_model`: how far the cluster goes, reckoned from what `scripts/bench` measured.

`costs` reads the unit costs, `model` multiplies them, `check` compares its predictions with runs at small sizes.
`placement` and `storm` simulate what no multiplication tells: where keys lie, and how a fleet comes back. `document`
and `simulated` write docs/SCALING.md. Nothing is assumed that is not either measured or named as an assumption there.
"""
