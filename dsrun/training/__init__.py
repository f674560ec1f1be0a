"""Training: synchronous stochastic gradient descent whose bits are defined by the config alone.

A global batch is cut into shards of fixed shape; every shard goes through the same compiled gradient function; the parts are
summed in a fixed binary tree; one update follows (`step.py`). The loop around it evaluates, keeps checkpoints and records
(`loop.py`). Device count, speed and the moment of a kill decide when a number is known, never what it is.
"""
