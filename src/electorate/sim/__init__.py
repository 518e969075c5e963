"""Drives the core in virtual time: network, faults, invariants, traces."""
