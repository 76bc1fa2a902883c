"""gantrain itself, as `gantrain task=benchmark` measures it, a few steps at a time."""

import sys
import tempfile
from pathlib import Path

from cases import CASES, composed

from gantrain.cli import Job
from gantrain.tasks.benchmark import PARTS, WARMUP_STEPS, Clock, measure


class Turn:
    """Makes the training wait for its turn: see cases.Turns."""

    def __init__(self) -> None:
        self.left = WARMUP_STEPS
        self.made = 0

    def __call__(self, clock: Clock) -> None:
        """Report when the steps of a turn are made, and wait for the next."""
        self.left -= 1
        if self.left == 0:
            laps = list(clock.steps().values())  # which waits for the device, as the other programs do
            if self.made:
                print(sum(step[part] for step in laps[-self.made :] for part in PARTS) / self.made, flush=True)
            self.left = self.made = int(sys.stdin.readline() or 1)  # there are no more turns after the last step


def main() -> None:
    """Train when it is this program's turn; at the end say what the callbacks take a step, each at its own interval."""
    name, steps, data = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    case = CASES[name]
    place = [f"dataset.root={data}", f"dataset.cache_dir={data}/cache", "dataset.download=false"]
    place = [] if case.source == "numbers" or name == "default" else place
    config = composed(case, *place, *sys.argv[4:])
    with tempfile.TemporaryDirectory() as folder:
        job = Job(name=name, folder=Path(folder), config=config, choices={}, typed=[], resume_command="")
        figures = measure(job, config, steps, Turn())
    print(figures["parts"]["callbacks"])


if __name__ == "__main__":
    main()
