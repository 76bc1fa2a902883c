"""gantrain itself, measured as by `gantrain task=benchmark`, a few steps at a time."""

import sys
import tempfile
from pathlib import Path

from cases import CASES, composed

from gantrain.engine.timing import PARTS, LapTimer, total
from gantrain.session.measuring import time_steps
from gantrain.tasks.benchmark import prepare
from gantrain.tasks.job import Job
from gantrain.tasks.train import frozen_garbage


class Turn:
    """Makes the training wait for its turn: see cases.Turns."""

    def __init__(self) -> None:
        self.left = self.made = 0

    def __call__(self, timer: LapTimer) -> None:
        """Report at the end of a turn, and wait for the next one; the warm-up ends with the first call."""
        self.left -= 1
        if self.left <= 0:
            laps = list(timer.steps().values())  # waits for the device, as the other programs do
            if self.made:
                print(sum(total(step, *PARTS) for step in laps[-self.made :]) / self.made, flush=True)
            self.left = self.made = int(sys.stdin.readline() or 1)  # after the last step there is no more turn


def main() -> None:
    """Train when it is this program's turn; at the end print the seconds per step of callbacks and lazy penalties."""
    name, steps, data = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    case = CASES[name]
    place = [f"dataset.root={data}", f"dataset.cache_dir={data}/cache", "dataset.download=false"]
    place = [] if case.source == "numbers" or name == "default" else place
    config = composed(case, *place, *sys.argv[4:])
    with tempfile.TemporaryDirectory() as folder:
        job = Job(name=name, folder=Path(folder), config=config, choices={}, typed=[], resume_command="")
        training = prepare(job, config)
        with frozen_garbage():
            timing = time_steps(training, steps, Turn())
    print(sum(timing.callbacks.values()) + sum(timing.lazy.values()))


if __name__ == "__main__":
    main()
