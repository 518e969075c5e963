"""`python -m electorate` is `elect`."""

from electorate.cli.main import main

main()
