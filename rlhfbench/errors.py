"""Errors that are a person's to mend: the command line prints one line and exits 2."""


class InputError(Exception):
    """Bad input or usage. The message says what was wrong, where, and what would be right."""
