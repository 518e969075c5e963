"""The version of electorate."""

__version__ = "0.1.0"
