"""Real nodes, a real network, real faults."""
