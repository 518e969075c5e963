"""The `elect` command."""
