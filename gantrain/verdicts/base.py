"""The base class of verdicts, each of which recognizes one failure of a training."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from gantrain.verdicts.evidence import Evidence


@dataclass(frozen=True)
class Finding:
    """What a verdict has found.

    Attributes:
        evidence: a sentence with the numbers.
        advice: what usually helps, as the end of a sentence, for example "a lower learning rate."
    """

    evidence: str
    advice: str


@dataclass(frozen=True)
class Undecided:
    """A check has measured nothing new, so that it neither confirms nor clears what earlier checks found."""


UNDECIDED = Undecided()
"""What a verdict returns instead of None or a finding if its last measurement showed the failure, and is not new."""


class Verdict(ABC):
    """Base class of verdicts, which are called every few hundred steps to look for one failure.

    Attributes:
        checks: number of successive checks that must find the failure before it is reported, and that must not find it
            before it counts as cleared.
    """

    checks: int = 1

    @abstractmethod
    def __call__(self, evidence: Evidence) -> Finding | Undecided | None:
        """Return the finding if the evidence shows the failure, else None; UNDECIDED does not count as a check."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the verdict remembers from check to check, for checkpoints: tensors, numbers and strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what state_dict returned."""
