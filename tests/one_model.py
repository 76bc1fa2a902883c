"""Let command lines of tests begin with model=dcgan, which small networks and short runs are written for."""

from collections.abc import Sequence

DEFAULT = "model=dcgan"


def with_one_model(arguments: Sequence[object]) -> list[str]:
    """Return the arguments without model=dcgan if another model or an experiment is typed, as Hydra requires."""
    typed = [str(argument) for argument in arguments]
    others = [argument for argument in typed if argument.startswith(("model=", "experiment=")) and argument != DEFAULT]
    return [argument for argument in typed if argument != DEFAULT or not others]
