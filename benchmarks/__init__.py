"""The speed of training: one task in several implementations, timed in turn.

An `Implementation` (`benchmarks.task`) trains the task; `benchmarks.implementations` lists them.
`benchmarks.timing` runs each in its own process, one epoch at a time in turn, so that ratios
compare neighbours in time. A suite measures and returns plain values, and `benchmarks.report`
shows them. `scripts/benchmark.py` is the command line.
"""
