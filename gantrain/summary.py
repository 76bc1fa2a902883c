"""What a person reads before the first step and after the last."""

import shlex
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gantrain import trust
from gantrain.config import critic_schedule
from gantrain.resume import quote, shell_command
from gantrain.run import Run, device_name, num_parameters


def summary(run: Run, choices: dict[str, Any]) -> RenderableType:
    """Say what is about to run: data, networks, objective, device, steps and place."""
    config, state, dataset = run.config, run.state, run.dataset
    shape = "x".join(map(str, dataset.image_shape))
    count = "sampled afresh" if dataset.num_images is None else f"{dataset.num_images:,} images"
    classes = f", {dataset.num_classes} classes" if dataset.num_classes else ""
    nodes = {name: config["regularizer"][name] for name in choices["regularizer"]}
    regularizers = " + ".join(f"{name} {_options(node)}".rstrip() for name, node in nodes.items())
    groups = {"G": state.G_optimizer.param_groups[0], "D": state.D_optimizer.param_groups[0]}
    kinds = {"G": type(state.G_optimizer).__name__, "D": type(state.D_optimizer).__name__}
    optimizers = {player: f"{kinds[player]} {_rates(group)}" for player, group in groups.items()}
    shared = len(set(optimizers.values())) == 1
    epochs = "" if dataset.num_images is None else f" (about {_epochs(run):.3g} epochs)"

    table = Table.grid(padding=(0, 2))
    rows = {
        "data": f"{dataset.name}: {count}, {shape}{classes}",
        "generator": f"{choices['network']}, {num_parameters(state.G):,} parameters",
        "discriminator": f"{choices['network']}, {num_parameters(state.D):,} parameters",
        "objective": " + ".join(filter(None, [choices["loss"], regularizers])),
        "optimizer": optimizers["G"] if shared else f"G {optimizers['G']}, D {optimizers['D']}",
        "device": f"{device_name(run.device)}, {run.runtime}"
        + (f", {run.processes.size} processes" if run.processes.size > 1 else ""),
        "steps": f"{run.steps:,}{epochs}, batch {config['batch_size']}, {_critic_updates(config)}",
        "folder": str(run.folder) + (f" (going on from step {run.state.step:,})" if run.earlier else ""),
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def closing(run: Run) -> str:
    """Say where things are, and the commands to look at them."""
    folder = run.folder
    quoted = shlex.quote(str(folder))
    grids = sorted(folder.glob("samples/step_*.png"))[-1:]
    pictures = [("samples", path) for path in grids]
    pictures += [("animation", folder / "samples.gif"), ("curves", folder / "curves.png")]
    lines = [f"\nDone: {run.state.step:,} steps. All of it is in {folder}"]
    lines += [f"  {name:<9} {path}" for name, path in pictures if path.exists()]
    if (folder / "tensorboard").exists():
        lines.append(f"  watch     tensorboard --logdir {quoted}")
    if (folder / "checkpoints").exists():
        trusted = [f"trust=[{','.join(trust.trusted)}]"] if trust.trusted else []
        more = ["task=sample", f"run={quote(str(folder))}", "num=100", "output=samples.png", *trusted]
        lines.append(f"  more      {shell_command('gantrain', *more)}")
    return "\n".join(lines)


def _options(node: dict[str, Any]) -> str:
    values = [f"{value:g}" if isinstance(value, float) else str(value) for key, value in node.items() if key[0] != "_"]
    return f"({', '.join(values)})" if values else ""


def _rates(group: dict[str, Any]) -> str:
    betas = f" betas {tuple(group['betas'])}" if "betas" in group else ""
    return f"lr {group['lr']:g}{betas}"


def _critic_updates(config: dict[str, Any]) -> str:
    n_critic, warmup = config["n_critic"], config["critic_warmup"]
    text = f"{n_critic} critic update{'s' if n_critic > 1 else ''} each"
    if warmup is None:
        return text
    when = [f"in the first {warmup['steps']}"] if warmup["steps"] else []
    when += [f"at every {warmup['every']}th"] if warmup["every"] else []
    return f"{text} ({warmup['n_critic']} {' and '.join(when)})" if when else text


def _epochs(run: Run) -> float:
    assert run.dataset.num_images
    return critic_schedule(run.config).total(run.steps) * float(run.config["batch_size"]) / run.dataset.num_images
