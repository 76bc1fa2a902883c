"""What a task is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantrain.config import Config


@dataclass(frozen=True)
class Job:
    """One task to do: a composed config, and what Hydra knows of it.

    Attributes:
        name: the experiment's, or the model's and the dataset's.
        folder: where a run writes.
        choices: the option taken of each group.
        typed: the overrides as the user typed them, behind those of the run that is gone on with.
        resume_command: what goes on with this run when it has ended, as it would be typed.
    """

    name: str
    folder: Path
    config: Config
    choices: dict[str, Any]
    typed: list[str]
    resume_command: str
