"""The one error that means "you, the user, can mend this"."""


class UserError(Exception):
    """A user's mistake or a machine's limit, told in one sentence: the cause, then the remedy.

    The command line prints the message and exits with code 2; every other exception is a defect of sapience.
    """
