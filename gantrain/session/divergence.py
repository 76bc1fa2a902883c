"""Report a divergence: what became NaN or Inf, at which step, and which settings to change."""

from gantrain.combinations import lacks_lipschitz_bound
from gantrain.config import Config, Node, selected_options
from gantrain.errors import DivergedError
from gantrain.session.run import Run


def diverged(run: Run, step: int, what: str) -> DivergedError:
    """Return the error of a diverged run.

    Args:
        step: the step at which it diverged; the run may be some steps further.
        what: a clause, for example "loss/generator is nan".
    """
    noticed = "" if step == run.state.step else f" (noticed at step {run.state.step})"
    advice = ", ".join(remedies(run.config, unbounded=lacks_lipschitz_bound(run.state.D, run.objective)))
    return DivergedError(f"{what} at step {step}{noticed}: the training has diverged. Worth trying: {advice}.")


def remedies(config: Config, *, unbounded: bool) -> list[str]:
    """List settings to change after a divergence, with their current values; never empty.

    Args:
        unbounded: whether the loss needs a Lipschitz critic, but nothing bounds its Lipschitz constant.
    """
    found = []
    if unbounded:
        found.append("regularizer=[gradient_penalty] (nothing bounds the critic's Lipschitz constant now)")
    for key, node in (("optimizer", config.optimizer), ("discriminator_optimizer", config.discriminator_optimizer)):
        lr = node.get("lr")
        if lr is not None:
            found.append(f"{key}.lr={lr / 10:g} (now {lr:g})")
    for name in selected_options(config.regularizer, "regularizer"):
        options: Node = config.regularizer[name]
        found += [f"another regularizer.{name}.{key} (now {options[key]})" for key in STRENGTHS if key in options]
    found.append(f"a larger batch_size (now {config.batch_size})")
    found.append("another seed" if config.on_divergence == "rollback" else "on_divergence=rollback")
    return found


STRENGTHS = ("weight", "gamma", "limit")
"""Names of the options of regularizers that set their strength."""
