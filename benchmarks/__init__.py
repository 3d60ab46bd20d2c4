"""How fast training is: one task, trained in several ways, measured beside each other.

A way (`benchmarks.way`) is a class with one contract; `WAYS` in `benchmarks.registry` lists
them. `interleaving` runs each in a process of its own, an epoch at a time, in rounds, so that a
ratio is one of neighbours in time. A suite measures and gives plain values; `targets` says which
were reached, `report` and `figure` show them. `scripts/benchmark.py` is what a person types.
"""
