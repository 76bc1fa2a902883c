"""The input of a task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gantrain.config import Config
from gantrain.engine.openmp import Load


@dataclass(frozen=True)
class Job:
    """A composed config, and how it was composed.

    Attributes:
        name: name of the experiment, or of the model and the dataset.
        folder: folder of the run.
        choices: the chosen option, or list of options, of each group.
        typed: the overrides that the user typed, after those of the run that is resumed, if any.
        resume_command: the shell command that resumes this run.
        reasons: of the choices of model=auto, if it made some.
        load: measures what other programs use since the job was created.
    """

    name: str
    folder: Path
    config: Config
    choices: dict[str, Any]
    typed: list[str]
    resume_command: str
    reasons: Sequence[str] = ()
    load: Load = field(default_factory=Load, compare=False)
