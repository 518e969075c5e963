"""electorate elects one process out of many.

Four algorithms (Bully, Ring, Raft, ZAB) decide who tries; a quorum decides who may; a lease proves it.
"""

__version__ = "0.1.0"
