"""Errors for the user: each message names the value, the rule and the remedy."""


class GantrainError(Exception):
    """An error that is shown to the user as a message, without a traceback.

    Attributes:
        exit_status: exit status of the command.
    """

    exit_status = 1


class UserError(GantrainError):
    """An error in the config or the data, found before the first step."""

    exit_status = 2


class ConfigError(UserError):
    """An option, or a combination of options, is invalid."""


class DataError(UserError):
    """The data is missing, broken or does not fit the config."""


class LostPeerError(GantrainError):
    """Another process of the run no longer responds."""


class StoppedByVerdictError(GantrainError):
    """A verdict that is named in verdict.stop has ended the run; a checkpoint is saved."""

    exit_status = 4


class DivergedError(GantrainError):
    """Training diverged: a loss, weight or buffer became NaN or Inf."""

    exit_status = 3
