"""Format the messages before the first step and after the last."""

import shlex
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from gantrain.budget import critic_schedule
from gantrain.command import trust
from gantrain.command.overrides import quote, shell_command
from gantrain.config import Config
from gantrain.evaluation.receipts import in_words, score_of_real_images
from gantrain.evaluation.table import real_samples, std_names, with_std
from gantrain.models.interface import takes_labels
from gantrain.models.spectral_norm import has_spectral_norm
from gantrain.session.record import Record, device_name, num_parameters
from gantrain.session.run import Run
from gantrain.verdicts.metric_worsens import MetricWorsens


def summary(run: Run, choices: dict[str, Any]) -> RenderableType:
    """Return the table of what is about to run: data, networks, objective, optimizers, device, steps and folder."""
    config, state, dataset = run.config, run.state, run.dataset
    shape = "x".join(map(str, dataset.image_shape))
    count = "sampled afresh" if dataset.num_images is None else f"{dataset.num_images:,} images"
    if dataset.held_out is not None:
        count += f" (and {dataset.held_out.num_images:,} held out)"
    classes = f", {dataset.num_classes} classes" if dataset.num_classes else ""
    if classes and not (takes_labels(state.G) or takes_labels(state.D)):
        classes += " (labels are not used)"
    nodes = config.regularizer | config.augment
    extras = [f"{name} {_options(nodes[name])}".rstrip() for name in (*choices["regularizer"], *choices["augment"])]
    groups = {"G": state.G_optimizer.param_groups[0], "D": state.D_optimizer.param_groups[0]}
    kinds = {"G": type(state.G_optimizer).__name__, "D": type(state.D_optimizer).__name__}
    optimizers = {player: f"{kinds[player]} {_rates(group)}" for player, group in groups.items()}
    shared = len(set(optimizers.values())) == 1
    epochs = "" if dataset.num_images is None else f" (about {_epochs(run):.3g} epochs)"

    table = Table.grid(padding=(0, 2))
    rows = {
        "data": f"{dataset.name}: {count}, {shape}{classes}",
        "generator": f"{network_name(state.G)}, {num_parameters(state.G):,} parameters",
        "discriminator": f"{network_name(state.D)}, {num_parameters(state.D):,} parameters",
        "objective": " + ".join([choices["loss"], *extras]),
        "optimizer": optimizers["G"] if shared else f"G {optimizers['G']}, D {optimizers['D']}",
        "device": f"{device_name(run.device)}, {run.runtime}"
        + (f", {run.processes.world_size} processes" if run.processes.world_size > 1 else ""),
        "steps": f"{run.steps:,}{epochs}, batch {config.batch_size}, {_critic_updates(config)}",
        "folder": str(run.folder) + (f" (resuming at step {run.state.step:,})" if run.previous else ""),
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def closing(run: Run, record: Record) -> str:
    """Return the message at the end of a run: scores, findings of verdicts, files, and commands to look at them."""
    folder = run.folder
    quoted = shlex.quote(str(folder))
    grids = sorted(folder.glob("samples/step_*.png"))[-1:]
    pictures = [("samples", path) for path in grids]
    pictures += [("animation", folder / "samples.gif"), ("curves", folder / "curves.png")]
    lines = [f"\nDone: {run.state.step:,} steps. The files are in {folder}"]
    lines += score_lines(run, record)
    lines += [] if run.wasserstein is None else [f"  estimate  {wasserstein_line(run.wasserstein)}"]
    lines += [f"  verdict   {text}" for text in open_findings(run)]
    lines += [f"  {name:<9} {path}" for name, path in pictures if path.exists()]
    if (folder / "tensorboard").exists():
        lines.append(f"  watch     tensorboard --logdir {quoted}")
    if (folder / "checkpoints").exists():
        trusted = [f"trust=[{','.join(trust.trusted)}]"] if trust.trusted else []
        more = ["task=sample", f"run={quote(str(folder))}", "num=100", "output=samples.png", *trusted]
        lines.append(f"  more      {shell_command('gantrain', *more)}")
    return "\n".join(lines)


def score_lines(run: Run, record: Record) -> list[str]:
    """Return a line for each score with a direction: its last and best value, that of real samples, the protocol.

    It warns if the last value is much worse than the best by the rule of the verdict metric_worsens, if that is
    selected.
    """
    rule = next((verdict for verdict in run.verdicts.values() if isinstance(verdict, MetricWorsens)), None)
    lines, stds = [], std_names([tag.removeprefix("metric/") for tag in record.last], run.better)
    for tag, best in record.best.items():
        last, receipt = record.last.get(tag), run.receipts.get(tag)
        if last is None or receipt is None:
            continue
        name, real, value = tag.removeprefix("metric/"), receipt.get("real"), best["value"]
        std = f"metric/{stds[name]}" if name in stds else ""
        texts = [
            f"last {with_std(last, record.last.get(std), 4)}",
            f"best {value:.4g} at step {int(best['step']):,}",
        ]
        if real is not None:
            of_real = with_std(real, run.receipts.get(std, {}).get("real"), 4)
            texts.append(f"{real_samples(receipt)} {of_real}")
        sign, first = run.better.get(name), record.first.get(tag, best)["value"]
        worse = (
            rule
            and sign
            and rule.is_much_worse(last, value, first=first, sign=sign, real=score_of_real_images(receipt))
        )
        warning = "; the last is much worse than the best" if worse else ""
        lines.append(f"  score     {name}: {', '.join(texts)}{warning} ({in_words(receipt)})")
    return lines


def wasserstein_line(found: dict[str, Any]) -> str:
    """Describe the critic's last estimate of the Wasserstein distance, and why it is not reliable if it is not."""
    bound = f"{found['estimate']:.4g} / Lipschitz bound {found['lipschitz']:.4g} = {found['normalized']:.4g}"
    exact = "" if found["exact"] is None else f", exact {found['exact']:.4g}"
    warning = "" if found["reliable"] else f"; not reliable: {' '.join(found['warnings'])}"
    return f"Wasserstein distance {bound}{exact}{warning}"


def open_findings(run: Run) -> list[str]:
    """Return a line for each finding of a verdict that holds at the end of the run."""
    findings = [finding for finding in run.findings if finding["cleared"] is None]
    return [f"{finding['verdict']}, since step {finding['step']:,}: {finding['evidence']}" for finding in findings]


def _options(node: dict[str, Any]) -> str:
    options = {key: value for key, value in node.items() if key[0] != "_" and HIDDEN_DEFAULTS.get(key) != value}
    # Mappings of many numbers would take several lines.
    texts = [f"{key} {_format(value)}" for key, value in options.items() if not isinstance(value, dict)]
    return f"({', '.join(texts)})" if texts else ""


HIDDEN_DEFAULTS = {"every": 1, "strength": 1.0}
"""The summary does not print an option that has this value."""


def _format(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rates(group: dict[str, Any]) -> str:
    betas = f" betas {tuple(group['betas'])}" if "betas" in group else ""
    return f"lr {group['lr']:g}{betas}"


def _critic_updates(config: Config) -> str:
    n_critic, warmup = config.n_critic, config.critic_warmup
    text = f"{n_critic} critic update{'s' if n_critic > 1 else ''} per step"
    if warmup is None:
        return text
    when = [f"in the first {warmup.steps} steps"] if warmup.steps else []
    when += [f"every {warmup.every} steps"] if warmup.every else []
    return f"{text} ({warmup.n_critic} {', then '.join(when)})" if when else text


def _epochs(run: Run) -> float:
    assert run.dataset.num_images
    schedule = critic_schedule(run.config.n_critic, run.config.critic_warmup)
    return schedule.total(run.steps) * float(run.config.batch_size) / run.dataset.num_images


NORMS = {"BatchNorm": "BatchNorm", "InstanceNorm": "InstanceNorm", "GroupNorm": "LayerNorm", "LayerNorm": "LayerNorm"}
"""For a part of the class name of a normalization layer, the name that is printed."""


def network_name(network: nn.Module) -> str:
    """Describe a network by its architecture and its normalization, for example "dcgan, BatchNorm"."""
    architecture = type(network).__module__.rpartition(".")[2]
    classes = {type(module).__name__ for module in network.modules()}
    norms = [label for part, label in NORMS.items() if any(part in name for name in classes)]
    norms += ["spectral norm"] if has_spectral_norm(network) else []
    return f"{architecture}, {' and '.join(dict.fromkeys(norms)) or 'no normalization'}"
