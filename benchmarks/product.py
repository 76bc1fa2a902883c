"""Measure gantrain as `gantrain task=benchmark` does, in alternation with the other programs of compare.py."""

import sys
import tempfile
from pathlib import Path

from cases import CASES, composed

from gantrain.engine.timing import PARTS, LapTimer, total
from gantrain.session.measuring import time_steps
from gantrain.tasks.benchmark import prepare
from gantrain.tasks.job import Job
from gantrain.tasks.train import frozen_gc


class Turn:
    """Runs the steps that compare.py asks for, and waits between turns; see cases.Turns."""

    def __init__(self) -> None:
        self.remaining = self.turn_steps = 0

    def __call__(self, timer: LapTimer) -> None:
        """Print the seconds per step at the end of a turn, and wait for the next; the first call ends the warm-up."""
        self.remaining -= 1
        if self.remaining <= 0:
            laps = list(timer.steps().values())  # waits for the device, as the other programs do
            if self.turn_steps:
                print(sum(total(step, *PARTS) for step in laps[-self.turn_steps :]) / self.turn_steps, flush=True)
            self.remaining = self.turn_steps = int(sys.stdin.readline() or 1)  # standard input ends after the last turn


def main() -> None:
    """Run the steps that compare.py asks for; at the end print the seconds per step of callbacks and lazy penalties."""
    name, steps, data = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    case = CASES[name]
    data_overrides = [f"dataset.root={data}", f"dataset.cache_dir={data}/cache", "dataset.download=false"]
    data_overrides = [] if case.source == "numbers" or name == "default" else data_overrides
    config = composed(case, *data_overrides, *sys.argv[4:])
    with tempfile.TemporaryDirectory() as folder:
        job = Job(name=name, folder=Path(folder), config=config, choices={}, typed=[], resume_command="")
        training = prepare(job, config)
        with frozen_gc():
            timing = time_steps(training, steps, Turn())
    print(sum(timing.callbacks.values()) + sum(timing.lazy.values()))


if __name__ == "__main__":
    main()
