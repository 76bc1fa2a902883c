"""Compare what this working tree trains with what an earlier commit trains, to the last bit.

    python benchmarks/same_bits.py                                  # everything
    python benchmarks/same_bits.py --only 'experiment|wgan_gp'      # the combinations whose names match
    python benchmarks/same_bits.py --against HEAD~1 --data ~/data

Every model on some data sets, and every experiment, is trained in both trees at a small size: once for 20 steps, and
once for 10 and then resumed to 20. Their samples and their networks have to be equal, array for array. The models and
the experiments are those of the earlier commit. The working tree is the one that this is called in. Each tree has one
process, and one thread, in which it runs the command again and again: to start it anew each time would take longer than
all the training.
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
"""The commit after which the package was laid out anew."""

DATASETS = {"digits": (), "cifar10": (), "celeba": ("dataset.image_size=32",), "gaussians_8": ()}
"""What every model is trained on, and at which size."""

FILES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "cifar-10-batches-py", "celeba": "celeba"}
"""Where the data sets are that gantrain does not bring along."""

SMALL = (
    *("batch_size=8", "model.generator.width=8", "model.discriminator.width=8"),
    # On a GPU the order of some sums is left to chance.
    *("runtime.device=cpu", "runtime.threads=1", "runtime.num_workers=1"),
    "callback=[checkpoint]",
)
WARMUP = "critic_warmup={n_critic: 3, steps: 4, every: 7}"
"""In place of an experiment's own, whose hundred updates would take all the time; its end and a return are reached."""

LARGEST_IMAGE = 64
STEPS, STEPS_BEFORE = 20, 10
NUM_SAMPLES = 64
SHOWN_CHARACTERS = 160

REFUSED = 2
"""The command's exit status where the config or the data are wrong."""


def main() -> None:
    """Compare the trees, and leave with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default=FIRST, metavar="COMMIT", help=f"the earlier one (default: {FIRST})")
    parser.add_argument("--data", default="data", type=Path, help="folder of the data sets (default: data)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="regular expression, found in the names")
    parser.add_argument("--drive", nargs=2, type=Path, help=argparse.SUPPRESS)  # what runs in each tree's process
    arguments = parser.parse_args()
    if arguments.drive:
        drive(*arguments.drive)
        return
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))  # so that all is cleared away
    start = time.perf_counter()
    new = Path(git("rev-parse", "--show-toplevel")).resolve()
    with tempfile.TemporaryDirectory(prefix="same_bits-") as made, checked_out(arguments.against, Path(made)) as old:
        scratch, data = old.parent, arguments.data.expanduser().resolve()
        wanted = [c for c in combinations(configs(old), data) if re.search(arguments.only, c.name)]
        if not wanted:
            parser.error(f"--only {arguments.only}: nothing has such a name")
        if missing := sorted({c.needs for c in wanted if c.needs is not None and not c.needs.exists()}):
            parser.error(f"--data {arguments.data}: there is no {' and no '.join(path.name for path in missing)} in it")
        print(f"{new} against {git('log', '-1', '--format=%h %s', arguments.against)}\n")
        plan = scratch / "plan.json"
        plan.write_text(json.dumps([calls(c, str(i)) for i, c in enumerate(wanted)]))
        with driven("old", old, plan, data) as first, driven("new", new, plan, data) as second:
            num_different = compare(wanted, [first, second])
    print(f"{time.perf_counter() - start:.0f} s")
    sys.exit(int(num_different > 0))


def git(*arguments: str) -> str:
    """Ask git something about the working directory; return its answer."""
    done = subprocess.run(["git", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)  # git has said why
    return done.stdout.strip()


@contextmanager
def checked_out(commit: str, scratch: Path) -> Iterator[Path]:
    """Lay out a commit's tree in a folder below the given one, while the block runs."""
    tree = scratch.resolve() / "old"
    git("worktree", "add", "--quiet", "--detach", str(tree), commit)
    try:
        yield tree
    finally:
        git("worktree", "remove", "--force", str(tree))


def configs(tree: Path) -> Path:
    """Find the folder of the configs in a checkout: above the modules, or beside them."""
    return next(folder for folder in (tree / "conf", tree / "gantrain" / "conf") if folder.is_dir())


@dataclass(frozen=True)
class Combination:
    """Something to train.

    Attributes:
        name: the choices that it stands for, as they are typed.
        overrides: what makes it small, and where its data are.
        needs: the folder of its data; None: it needs none.
    """

    name: str
    overrides: tuple[str, ...]
    needs: Path | None


def combinations(conf: Path, data: Path) -> list[Combination]:
    """List what there is to train: every model on some data sets, then every experiment."""
    models, experiments = (
        sorted(path.stem for path in (conf / group).glob("*.yaml")) for group in ("model", "experiment")
    )
    found = [
        Combination(f"model={model} dataset={dataset}", (*SMALL, *size, *located(conf, dataset)), folder(data, dataset))
        for model in models
        for dataset, size in DATASETS.items()
    ]
    for experiment in experiments:
        text = (conf / "experiment" / f"{experiment}.yaml").read_text()
        chosen = re.search(r"override /dataset: (\w+)", text)
        dataset = chosen[1] if chosen else "digits"
        overrides = (*SMALL, *smaller(text, dataset), *located(conf, dataset))
        found.append(Combination(f"experiment={experiment}", overrides, folder(data, dataset)))
    return found


def smaller(text: str, dataset: str) -> Iterator[str]:
    """Yield the overrides that take from an experiment what would be slow, given its file's text."""
    size = re.search(r"image_size: (\d+)", text)
    if size and dataset == "cifar10":
        yield "dataset.image_size=32"  # as published: enlarged they would be more than half a gigabyte for each tree
    elif size and int(size[1]) > LARGEST_IMAGE:
        yield f"dataset.image_size={LARGEST_IMAGE}"
    if "critic_warmup:" in text:
        yield WARMUP


def located(conf: Path, dataset: str) -> tuple[str, ...]:
    """Say where the data are, for a data set that has files; what is decoded of them is each tree's own."""
    has_files = "root:" in (conf / "dataset" / f"{dataset}.yaml").read_text()
    return ("dataset.root=data", "dataset.cache_dir=cache", "dataset.download=false") if has_files else ()


def folder(data: Path, dataset: str) -> Path | None:
    """Name the folder that a data set must have."""
    return data / FILES[dataset] if dataset in FILES else None


def calls(combination: Combination, place: str) -> list[list[str]]:
    """List the arguments of each call of the command that a combination takes, writing below the given folder."""
    training = [*combination.name.split(), *combination.overrides]
    whole, resumed = f"{place}/whole", f"{place}/resumed"
    return [
        [*training, f"steps={STEPS}", f"run_dir={whole}"],
        sampling(whole),
        [*training, f"steps={STEPS_BEFORE}", f"run_dir={resumed}"],
        [f"resume={resumed}", f"steps={STEPS}"],
        sampling(resumed),
    ]


WHOLE, RESUMED = range(2), range(2, 5)
"""Which of the calls make the run that is not interrupted, and which the one that is."""


def sampling(run: str) -> list[str]:
    """Take samples of a run, beside its folder."""
    return ["task=sample", f"run={run}", f"output={run}.npz", f"num={NUM_SAMPLES}", "runtime.device=cpu"]


@dataclass(frozen=True)
class Outcome:
    """What became of a combination's calls in one tree.

    Attributes:
        statuses: with which each left; the first that is not 0 is the last.
        said: the end of what the last one said.
    """

    statuses: list[int] = field(default_factory=list)
    said: str = ""

    def failure(self, wanted: range) -> int:
        """Return the status of the one of these calls that failed; 0: none did, or it was never made."""
        return max((status for i, status in enumerate(self.statuses) if i in wanted), default=0)


def drive(tree: Path, plan: Path) -> None:
    """Make the calls of every combination in this process; for each write an outcome to standard output."""
    # An editable install has put another tree on the path, whose plugins Hydra would find as well.
    sys.path[:] = [p for p in sys.path if Path(p) == tree or not (Path(p) / "gantrain" / "__init__.py").exists()]
    from gantrain.__main__ import main as command

    origin = Path(sys.modules["gantrain"].__file__ or "")
    if not origin.is_relative_to(tree):
        raise SystemExit(f"{origin} was imported instead of the package in {tree}")
    for arguments in json.loads(plan.read_text()):
        outcome = Outcome()
        for some in arguments:
            status, said = call(command, some)
            outcome = Outcome([*outcome.statuses, status], said)
            if status:
                break
        print(json.dumps(asdict(outcome)), flush=True)
        gc.collect()  # the runs' data: Python counts objects, of which they are few, and not their bytes


def call(command: Callable[[], None], arguments: Sequence[str]) -> tuple[int, str]:
    """Run the command in this process as a new one would; return its exit status, and what it said."""
    GlobalHydra.instance().clear()
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "gantrain"]
    for value in (value for module in ours for value in vars(module).values()):
        if isinstance(value, functools._lru_cache_wrapper):
            value.cache_clear()
    os.environ.pop("HYDRA_FULL_ERROR", None)
    sys.argv[:] = ["gantrain", *arguments]
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = 0
        try:
            command()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
    return status, said.getvalue()


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
        """Wait for what became of the next combination."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of the {self.name} tree ended early, with status {self.process.wait()}")
        return Outcome(**json.loads(line))


@contextmanager
def driven(name: str, tree: Path, plan: Path, data: Path) -> Iterator[Side]:
    """Have a tree's process make the calls of the plan, in a folder beside it, while the block runs."""
    runs = plan.parent / f"{name}_runs"
    runs.mkdir()
    (runs / "data").symlink_to(data)  # a name that no override has to quote
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # -P: this script's folder is no place to import from.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--drive", str(tree), str(plan)]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=runs, env=environment, **pipes)
    try:
        yield Side(name, runs, process)
    finally:
        process.kill()
        process.wait()


def compare(wanted: Sequence[Combination], sides: Sequence[Side]) -> int:
    """Print a row for each combination as both trees come to its end; return how many of them differ."""
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
                notes.append(f"{combination.name}, {side.name}: {shortened(outcome.said)}")
    print("\n" + "".join(f"{note}\n" for note in notes) + "\n" * bool(notes), end="")
    print(f"{len(wanted)} combinations: " + ", ".join(f"{number} {kind}" for kind, number in counts.items()))
    return counts["different"]


def after_all_steps(old: Outcome, new: Outcome, runs: Sequence[Path]) -> str:
    """Say whether the runs that were not interrupted are the same in both trees."""
    return failed(old, new, WHOLE) or verdict(differences(runs[0] / "whole", runs[1] / "whole"))


def after_resume(old: Outcome, new: Outcome, runs: Sequence[Path]) -> str:
    """Say whether the runs that were resumed are the same in both trees, and the same as those that were not."""
    if failed(old, new, WHOLE):
        return "-"
    if failure := failed(old, new, RESUMED):
        return failure
    found = differences(runs[0] / "resumed", runs[1] / "resumed")
    for name, run in zip(("old", "new"), runs, strict=True):
        found += [f"{part} of {name} by resuming" for part in differences(run / "whole", run / "resumed")]
    return verdict(found)


def failed(old: Outcome, new: Outcome, wanted: range) -> str:
    """Say which of the trees failed in these calls; nothing where both made them."""
    statuses = (old.failure(wanted), new.failure(wanted))
    return "NO: exit {} of old, {} of new".format(*statuses) if any(statuses) else ""


def verdict(found: Sequence[str]) -> str:
    """Write a cell of the table."""
    return f"NO: {', '.join(found)}" if found else "yes"


def differences(run: Path, other: Path) -> list[str]:
    """Name what differs in two runs that ended: their samples, or a network."""
    a, b = held(run), held(other)
    return [part for part in sorted(a.keys() | b.keys()) if not all_equal(a.get(part), b.get(part))]


def held(run: Path) -> dict[str, list[np.ndarray]]:
    """Read a run's samples, and its networks: the last bits of these do not all show in pixels of 256 values."""
    with np.load(run.with_suffix(".npz")) as archive:
        found = {"samples": [archive[name] for name in archive.files]}
    newest = max((run / "checkpoints").glob("step_*.pt"))
    content: dict[str, Any] = torch.load(newest, map_location="cpu", weights_only=True)
    for player in ("G", "D", "G_ema"):
        # By their order: a layer that has another name is the same network.
        if content.get(player) is not None:
            found[player] = [tensor.numpy() for tensor in content[player].values()]
    return found | {"step": [np.array(content["step"])]}


def all_equal(some: Sequence[np.ndarray] | None, others: Sequence[np.ndarray] | None) -> bool:
    """Compare arrays one by one, their types too."""
    if some is None or others is None or len(some) != len(others):
        return False
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def shortened(said: str) -> str:
    """Cut what the command said to its last line."""
    line = (said.strip().splitlines() or ["(nothing)"])[-1].strip()
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."


if __name__ == "__main__":
    main()
