"""The pure state machines: no clock, no socket, no randomness, no I/O."""
