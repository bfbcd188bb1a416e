"""REST: what operators and other programs ask of the cluster. Any node answers for all of it."""
