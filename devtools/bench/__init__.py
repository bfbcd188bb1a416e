"""`scripts/bench`: what the cluster costs, measured beside others in the same run.

The program is the load generator, too: it keeps one processor (or a set) for itself and gives another to the servers
that it starts. `connections`, `websocket`: the wire, as cheap as Python allows, so that the generator is not what is
measured. `fleet`: devices on it. `load`: tasks for them. `contestants`: who is measured. `redis_cost`, `processes`:
what it cost them. `rows`: one file a row of the table. `report`, `document`, `plots`: what came of it.
"""
