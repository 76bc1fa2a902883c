"""Errors that a person can act on: each message names the value, the rule and the remedy."""


class GantrainError(Exception):
    """An error with a message for the user rather than a traceback.

    `exit_status` is what the command leaves with.
    """

    exit_status = 1


class UserError(GantrainError):
    """What the user gave is wrong; found before the first step."""

    exit_status = 2


class ConfigError(UserError):
    """The config, or a combination in it, cannot work."""


class DataError(UserError):
    """The data is missing, broken or does not fit."""


class LostError(GantrainError):
    """Another process of the run does not answer any more."""


class DivergedError(GantrainError):
    """The training left the finite numbers."""

    exit_status = 3
