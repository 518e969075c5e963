"""The Election API on each engine. `embedded` needs no server."""
