"""What a user or operator did that cannot work, as opposed to a bug of ours."""


class UserError(Exception):
    """One clear sentence that names the thing and the remedy. The command prints it and exits with 2."""


class InUse(UserError):
    """Another process is this node already, as its data directory shows."""
