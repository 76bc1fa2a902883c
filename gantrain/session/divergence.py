"""What to report when a training diverges: where, and the settings worth changing."""

from gantrain.config import Config, Node, chosen
from gantrain.errors import DivergedError
from gantrain.session.run import Run


def diverged(run: Run, step: int, what: str) -> DivergedError:
    """Make the error that ends a run: what happened at which step, and the settings worth changing.

    Args:
        step: where it happened; it is noticed at the run's step, now.
        what: a clause, "loss/generator is nan".
    """
    noticed = "" if step == run.state.step else f" (noticed at step {run.state.step})"
    advice = ", ".join(remedies(run.config, unbounded=is_unbounded(run)))
    return DivergedError(f"{what} at step {step}{noticed}: the training has diverged. Worth trying: {advice}.")


def remedies(config: Config, *, unbounded: bool) -> list[str]:
    """List the settings worth changing after a divergence, with their present values; never empty.

    Args:
        unbounded: whether the loss needs a Lipschitz critic and nothing makes it one.
    """
    found = []
    if unbounded:
        found.append("regularizer=[gradient_penalty] (nothing bounds the critic's slope now)")
    for key, node in (("optimizer", config.optimizer), ("discriminator_optimizer", config.discriminator_optimizer)):
        lr = node.get("lr")
        if lr is not None:
            found.append(f"{key}.lr={lr / 10:g} (now {lr:g})")
    for name in chosen(config.regularizer, "regularizer"):
        options: Node = config.regularizer[name]
        found += [f"another regularizer.{name}.{key} (now {options[key]})" for key in STRENGTHS if key in options]
    found.append(f"a larger batch_size (now {config.batch_size})")
    found.append("another seed" if config.on_divergence == "rollback" else "on_divergence=rollback")
    return found


STRENGTHS = ("weight", "gamma", "limit")
"""What regularizers call the option that says how strong they are."""


def is_unbounded(run: Run) -> bool:
    """Tell whether the loss needs a Lipschitz critic and nothing makes it one."""
    needs = bool(getattr(run.objective.loss, "needs_lipschitz", False))
    return needs and not any(r.bounds_lipschitz for r in run.objective.regularizers.values())
