"""Check that this working tree trains networks that are bitwise identical to those of an earlier commit.

    python benchmarks/same_bits.py                                  # all combinations
    python benchmarks/same_bits.py --only 'experiment|wgan_gp'      # combinations whose names match
    python benchmarks/same_bits.py --against HEAD~1 --data ~/data

Every model on some datasets, and every experiment, is trained in both trees with small networks: once for 20 steps, and
once for 10 steps and then resumed to 20. Samples and networks must be equal. The models and experiments are those of
the earlier commit. Run it in the working tree. Each tree has a single process with one thread, which runs all commands,
because starting a process for each would take longer than the training.
"""

import argparse
import functools
import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra

FIRST = "d82011a"
"""The last commit before the package was split into subpackages."""

DATASETS = {"digits": (), "cifar10": (), "celeba": ("dataset.image_size=32",), "gaussians_8": ()}
"""The datasets that every model is trained on, with the overrides that set their size."""

FILES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "cifar-10-batches-py", "celeba": "celeba"}
"""Folders of the datasets that are not included in gantrain, below --data."""

SMALL = (
    *("batch_size=8", "model.generator.width=8", "model.discriminator.width=8"),
    # On a GPU the order of some sums is not deterministic.
    *("runtime.device=cpu", "runtime.threads=1", "runtime.num_workers=1"),
    "callback=[checkpoint]",
)
WARMUP = "critic_warmup={n_critic: 3, steps: 4, every: 7}"
"""A short warm-up in place of an experiment's own; both its end and its first repetition are within the steps."""

LARGEST_IMAGE = 64
STEPS, STEPS_BEFORE = 20, 10
NUM_SAMPLES = 64
SHOWN_CHARACTERS = 160

REFUSED = 2
"""Exit status of the command if the config or the data is wrong."""


def main() -> None:
    """Compare the two trees; exit with status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default=FIRST, metavar="COMMIT", help=f"the earlier commit (default: {FIRST})")
    parser.add_argument("--data", default="data", type=Path, help="folder of the datasets (default: data)")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="regular expression that selects combinations by name"
    )
    parser.add_argument("--run-plan", nargs=2, type=Path, help=argparse.SUPPRESS)  # used for the process of each tree
    arguments = parser.parse_args()
    if arguments.run_plan:
        run_plan(*arguments.run_plan)
        return
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))  # so that temporary files are removed
    start = time.perf_counter()
    new = Path(git("rev-parse", "--show-toplevel")).resolve()
    with tempfile.TemporaryDirectory(prefix="same_bits-") as made, checked_out(arguments.against, Path(made)) as old:
        scratch, data = old.parent, arguments.data.expanduser().resolve()
        wanted = [c for c in combinations(configs(old), data) if re.search(arguments.only, c.name)]
        if not wanted:
            parser.error(f"--only {arguments.only}: no combination has a matching name")
        if missing := sorted({c.needs for c in wanted if c.needs is not None and not c.needs.exists()}):
            parser.error(
                f"--data {arguments.data}: {', '.join(path.name for path in missing)} not found in this folder"
            )
        print(f"{new} against {git('log', '-1', '--format=%h %s', arguments.against)}\n")
        plan = scratch / "plan.json"
        plan.write_text(json.dumps([list_calls(c, str(i)) for i, c in enumerate(wanted)]))
        with tree_process("old", old, plan, data) as first, tree_process("new", new, plan, data) as second:
            num_different = compare(wanted, [first, second])
    print(f"{time.perf_counter() - start:.0f} s")
    sys.exit(int(num_different > 0))


def git(*arguments: str) -> str:
    """Run a git command in the working directory; return its output."""
    done = subprocess.run(["git", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)  # git has printed the reason
    return done.stdout.strip()


@contextmanager
def checked_out(commit: str, scratch: Path) -> Iterator[Path]:
    """Check out a commit in a temporary worktree while the block runs."""
    tree = scratch.resolve() / "old"
    git("worktree", "add", "--quiet", "--detach", str(tree), commit)
    try:
        yield tree
    finally:
        git("worktree", "remove", "--force", str(tree))


def configs(tree: Path) -> Path:
    """Return the folder of the configs in a checkout; older commits have it inside the package."""
    return next(folder for folder in (tree / "conf", tree / "gantrain" / "conf") if folder.is_dir())


@dataclass(frozen=True)
class Combination:
    """A config to train in both trees.

    Attributes:
        name: the overrides that choose its options.
        overrides: further overrides, which make it small and set the folders of its data.
        needs: the folder of its data, or None.
    """

    name: str
    overrides: tuple[str, ...]
    needs: Path | None


def combinations(conf: Path, data: Path) -> list[Combination]:
    """List the combinations: every model on some datasets, then every experiment."""
    models, experiments = (
        sorted(path.stem for path in (conf / group).glob("*.yaml")) for group in ("model", "experiment")
    )
    found = [
        Combination(
            f"model={model} dataset={dataset}", (*SMALL, *size, *data_overrides(conf, dataset)), folder(data, dataset)
        )
        for model in models
        for dataset, size in DATASETS.items()
    ]
    for experiment in experiments:
        text = (conf / "experiment" / f"{experiment}.yaml").read_text()
        chosen = re.search(r"override /dataset: (\w+)", text)
        dataset = chosen[1] if chosen else "digits"
        overrides = (*SMALL, *smaller_settings(text, dataset), *data_overrides(conf, dataset))
        found.append(Combination(f"experiment={experiment}", overrides, folder(data, dataset)))
    return found


def smaller_settings(text: str, dataset: str) -> Iterator[str]:
    """Yield the overrides that replace the slow settings of an experiment, given the text of its file."""
    size = re.search(r"image_size: (\d+)", text)
    if size and dataset == "cifar10":
        yield "dataset.image_size=32"  # the native size; larger images would take more than 0.5 GB per tree
    elif size and int(size[1]) > LARGEST_IMAGE:
        yield f"dataset.image_size={LARGEST_IMAGE}"
    if "critic_warmup:" in text:
        yield WARMUP


def data_overrides(conf: Path, dataset: str) -> tuple[str, ...]:
    """Return the overrides that set the folders of a dataset; each tree has its own cache of decoded images."""
    has_files = "root:" in (conf / "dataset" / f"{dataset}.yaml").read_text()
    return ("dataset.root=data", "dataset.cache_dir=cache", "dataset.download=false") if has_files else ()


def folder(data: Path, dataset: str) -> Path | None:
    """Return the folder that a dataset needs, or None."""
    return data / FILES[dataset] if dataset in FILES else None


def list_calls(combination: Combination, folder_name: str) -> list[list[str]]:
    """List the arguments of each call of the command for a combination, with runs below the given folder."""
    training = [*combination.name.split(), *combination.overrides]
    uninterrupted, resumed = f"{folder_name}/uninterrupted", f"{folder_name}/resumed"
    return [
        [*training, f"steps={STEPS}", f"run_dir={uninterrupted}"],
        sample_arguments(uninterrupted),
        [*training, f"steps={STEPS_BEFORE}", f"run_dir={resumed}"],
        [f"resume={resumed}", f"steps={STEPS}"],
        sample_arguments(resumed),
    ]


UNINTERRUPTED, RESUMED = range(2), range(2, 5)
"""Indices of the calls of the uninterrupted run, and of the resumed one."""


def sample_arguments(run: str) -> list[str]:
    """Return the arguments that write samples of a run next to its folder."""
    return ["task=sample", f"run={run}", f"output={run}.npz", f"num={NUM_SAMPLES}", "runtime.device=cpu"]


@dataclass(frozen=True)
class Outcome:
    """The result of a combination's calls in one tree.

    Attributes:
        statuses: exit status of each call; calls after a failed one are not made.
        output: the output of the last call.
    """

    statuses: list[int] = field(default_factory=list)
    output: str = ""

    def failure(self, wanted: range) -> int:
        """Return the exit status of the failed call among those with these indices; 0 if none failed."""
        return max((status for i, status in enumerate(self.statuses) if i in wanted), default=0)


def run_plan(tree: Path, plan: Path) -> None:
    """Make the calls of every combination in this process; print an outcome, as JSON, for each combination."""
    # An editable install adds another tree to the path, and Hydra would find its plugins too.
    sys.path[:] = [p for p in sys.path if Path(p) == tree or not (Path(p) / "gantrain" / "__init__.py").exists()]
    from gantrain.__main__ import main as command

    origin = Path(sys.modules["gantrain"].__file__ or "")
    if not origin.is_relative_to(tree):
        raise SystemExit(f"{origin} was imported instead of the package in {tree}")
    for arguments in json.loads(plan.read_text()):
        outcome = Outcome()
        for some in arguments:
            status, output = call(command, some)
            outcome = Outcome([*outcome.statuses, status], output)
            if status:
                break
        print(json.dumps(asdict(outcome)), flush=True)
        gc.collect()  # frees the data of the runs, which are too few objects to start a collection


def call(command: Callable[[], None], arguments: Sequence[str]) -> tuple[int, str]:
    """Run the command in this process as if it were new; return its exit status and its output."""
    GlobalHydra.instance().clear()
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "gantrain"]
    for value in (value for module in ours for value in vars(module).values()):
        if isinstance(value, functools._lru_cache_wrapper):
            value.cache_clear()
    os.environ.pop("HYDRA_FULL_ERROR", None)
    sys.argv[:] = ["gantrain", *arguments]
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = 0
        try:
            command()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
    return status, output.getvalue()


@dataclass(frozen=True)
class Side:
    """One of the two trees, and the process that runs the command in it.

    Attributes:
        runs: the folder of its runs.
    """

    name: str
    runs: Path
    process: subprocess.Popen[str]

    def outcome(self) -> Outcome:
        """Wait for the outcome of the next combination."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"The process of the {self.name} tree ended early, with exit status {self.process.wait()}."
            )
        return Outcome(**json.loads(line))


@contextmanager
def tree_process(name: str, tree: Path, plan: Path, data: Path) -> Iterator[Side]:
    """Start the process of a tree, which makes the calls of the plan, and kill it at the end of the block."""
    runs = plan.parent / f"{name}_runs"
    runs.mkdir()
    (runs / "data").symlink_to(data)  # a path that needs no quoting in overrides
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # -P: do not import modules from this script's folder.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--run-plan", str(tree), str(plan)]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=runs, env=environment, **pipes)
    try:
        yield Side(name, runs, process)
    finally:
        process.kill()
        process.wait()


def compare(wanted: Sequence[Combination], sides: Sequence[Side]) -> int:
    """Print a row for each combination when both trees have finished it; return how many combinations differ."""
    width = max(len(c.name) for c in wanted)
    row = f"{{:{width}}}  {{:<25}}  {{}}".format
    print(row("combination", f"same after {STEPS} steps", "same after resume"))
    counts, notes = dict.fromkeys(("same", "refused by both", "different"), 0), []
    for i, combination in enumerate(wanted):
        old, new = (side.outcome() for side in sides)
        runs = [side.runs / str(i) for side in sides]
        if old.statuses == new.statuses == [REFUSED]:
            cells, kind = ["refused by both"] * 2, "refused by both"
        else:
            cells = [after_all_steps(old, new, runs), after_resume(old, new, runs)]
            kind = "same" if cells == ["yes"] * 2 else "different"
        print(row(combination.name, *cells), flush=True)
        counts[kind] += 1
        for side, outcome in zip(sides, (old, new), strict=True):
            if any(outcome.statuses):
                notes.append(f"{combination.name}, {side.name}: {shortened(outcome.output)}")
    print("\n" + "".join(f"{note}\n" for note in notes) + "\n" * bool(notes), end="")
    print(f"{len(wanted)} combinations: " + ", ".join(f"{number} {kind}" for kind, number in counts.items()))
    return counts["different"]


def after_all_steps(old: Outcome, new: Outcome, runs: Sequence[Path]) -> str:
    """Compare the uninterrupted runs of both trees; return a cell of the table."""
    return failed(old, new, UNINTERRUPTED) or format_cell(
        differences(runs[0] / "uninterrupted", runs[1] / "uninterrupted")
    )


def after_resume(old: Outcome, new: Outcome, runs: Sequence[Path]) -> str:
    """Compare the resumed runs of both trees, and each with its uninterrupted run; return a cell of the table."""
    if failed(old, new, UNINTERRUPTED):
        return "-"
    if failure := failed(old, new, RESUMED):
        return failure
    found = differences(runs[0] / "resumed", runs[1] / "resumed")
    for name, run in zip(("old", "new"), runs, strict=True):
        found += [f"{part} of {name} by resuming" for part in differences(run / "uninterrupted", run / "resumed")]
    return format_cell(found)


def failed(old: Outcome, new: Outcome, wanted: range) -> str:
    """Return a cell with the exit statuses of failed calls; an empty string if none failed."""
    statuses = (old.failure(wanted), new.failure(wanted))
    return "NO: exit {} of old, {} of new".format(*statuses) if any(statuses) else ""


def format_cell(found: Sequence[str]) -> str:
    """Format a list of differences as a cell of the table."""
    return f"NO: {', '.join(found)}" if found else "yes"


def differences(run: Path, other: Path) -> list[str]:
    """List what differs between two runs: samples, step, or a network."""
    a, b = read_arrays(run), read_arrays(other)
    return [part for part in sorted(a.keys() | b.keys()) if not all_equal(a.get(part), b.get(part))]


def read_arrays(run: Path) -> dict[str, list[np.ndarray]]:
    """Read a run's samples and networks; pixels of 8 bits do not show every difference in the weights."""
    with np.load(run.with_suffix(".npz")) as archive:
        found = {"samples": [archive[name] for name in archive.files]}
    newest = max((run / "checkpoints").glob("step_*.pt"))
    content: dict[str, Any] = torch.load(newest, map_location="cpu", weights_only=True)
    for player in ("G", "D", "G_ema"):
        # Compared by order, because layers may have been renamed.
        if content.get(player) is not None:
            found[player] = [tensor.numpy() for tensor in content[player].values()]
    return found | {"step": [np.array(content["step"])]}


def all_equal(some: Sequence[np.ndarray] | None, others: Sequence[np.ndarray] | None) -> bool:
    """Tell whether all arrays are equal, with equal dtypes."""
    if some is None or others is None or len(some) != len(others):
        return False
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def shortened(output: str) -> str:
    """Return the last line of the output, shortened."""
    line = (output.strip().splitlines() or ["(nothing)"])[-1].strip()
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."


if __name__ == "__main__":
    main()
