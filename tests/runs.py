"""Read the files of a run, and compare two runs bit by bit."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gantrain.callbacks.tensorboard import read_records
from gantrain.session import checkpoint

TIMING = ("seconds", "throughput/images_per_second")
"""Tags that depend on the speed of the run."""

COMMAND = ("config", "overrides", "steps_planned", "intervals", "due_at")
"""Keys of a checkpoint that depend on the command line, for example on resume and run_dir."""


def run_json(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def csv_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def tensorboard_events(run: Path) -> dict[tuple[str, int], bytes]:
    """Return the values of the event files by tag and step; a value that occurs twice is an error."""
    found: dict[tuple[str, int], bytes] = {}
    for path in sorted((run / "tensorboard").iterdir()):
        for _, event in read_records(path):
            for value in event.summary.value:
                if value.tag not in TIMING and value.tag.split("/")[0] not in ("config", "_hparams_"):
                    assert (value.tag, event.step) not in found, f"{value.tag} occurs twice at step {event.step}"
                    found[value.tag, event.step] = value.SerializeToString()
    return found


def tensorboard_view(run: Path) -> dict[tuple[str, int], Any]:
    """Return the events by tag and step, as TensorBoard reads them."""
    unlimited = dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0)
    board = EventAccumulator(str(run / "tensorboard"), size_guidance=unlimited)
    tags = board.Reload().Tags()
    events = [(tag, event) for tag in tags["scalars"] for event in board.Scalars(tag)]
    events += [(tag, event) for tag in tags["images"] for event in board.Images(tag)]
    events += [(tag, event) for tag in tags["histograms"] for event in board.Histograms(tag)]
    texts = [tag for tag in tags["tensors"] if tag.split("/")[0] not in ("config", "_hparams_")]
    events += [(tag, event) for tag in texts for event in board.Tensors(tag)]
    return {
        (tag, event.step): event._replace(wall_time=0) if hasattr(event, "_replace") else replace(event, wall_time=0)
        for tag, event in events
        if tag not in TIMING
    }


def flatten(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts and lists, each with its path."""
    if isinstance(content, dict | list | tuple):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            if key not in (*TIMING, *COMMAND):
                yield from flatten(value, f"{path} {key}")
    elif isinstance(content, torch.Tensor):
        yield path, (str(content.dtype), tuple(content.shape), content.numpy().tobytes())
    else:
        yield path, content


def run_contents(run: Path) -> dict[str, Any]:
    """Return everything in the folder of a finished run except timings, by file and key."""
    newest, saved = checkpoint.paths(run)[-1], run_json(run)
    files = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    # The number of these files depends on how often the run was resumed.
    varying = ("tensorboard/", "checkpoints/step_", "gantrain.log")
    found = {
        "names": sorted(name for name in files if not name.startswith(varying) or ".tmp" in name),
        "run.json": {key: saved[key] for key in ("status", "error", "steps", "steps_planned", "images_seen")},
        **dict(flatten(saved["metrics"], "run.json")),
        **dict(flatten(saved["wasserstein"], "run.json wasserstein")),
        "metrics.csv": [{tag: cell for tag, cell in row.items() if tag not in TIMING} for row in csv_rows(run)],
        "events": tensorboard_events(run),
        "shown": tensorboard_view(run),
        "newest": newest.name,
        **dict(flatten(checkpoint.read(newest), "checkpoint")),
        **{name: path.read_bytes() for name, path in files.items() if path.suffix in (".png", ".gif")},
    }
    if "checkpoints/best.pt" in files:
        found |= dict(flatten(checkpoint.read(files["checkpoints/best.pt"]), "best.pt"))
    assert found["shown"].keys() == found["events"].keys()
    return found


def differences(run: Path, other: Path) -> list[str]:
    """Return the files and keys in which two finished runs differ."""
    a, b = run_contents(run), run_contents(other)
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


def assert_parts_acted(run: Path) -> None:
    """Assert that all penalties are logged, and that the saved states of regularizers and augmentations are not 0.

    All these states are 0 before the first update. Without this check, a test of a part that never acts would pass.
    """
    saved, rows = checkpoint.read(checkpoint.paths(run)[-1]), csv_rows(run)
    no_penalties = {"input_noise", "dequantization", "weight_clip"}
    for name in saved["regularizers"].keys() - no_penalties:
        assert any(row.get(f"penalty/{name}") or row.get(f"penalty/{name}_generator") for row in rows), name
    for group in ("regularizers", "augment"):
        for name, state in saved[group].items():
            assert all(torch.as_tensor(value).abs().max() > 0 for value in state.values()), name


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
