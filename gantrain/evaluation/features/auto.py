"""features=auto: the features that fit the data."""


class Auto:
    """Stands for the features that the dataset names; `choice.choose_extractor` replaces it.

    Args:
        weights: the option `weights` of the features that are chosen; None leaves it as their config has it.
    """

    def __init__(self, *, weights: str | None):
        self.weights = weights
