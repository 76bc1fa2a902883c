"""Make one object from its part of the config; the only caller of hydra.utils.instantiate."""

import inspect
import typing
from collections.abc import Sequence
from typing import Any

from beartype import BeartypeConf
from beartype.door import is_bearable
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from gantrain.command.trust import resolve
from gantrain.config import Node, chosen
from gantrain.errors import ConfigError, GantrainError
from gantrain.files import DISK_FULL

# An int passes where a float is asked for, as it does in Python.
_NUMBERS = BeartypeConf(is_pep484_tower=True)


def build(path: str, node: Any, *facts: object, **named_facts: object) -> Any:
    """Make the object that the node at `path` of the config describes.

    Args:
        facts: fill the first parameters; what is left are the options, which the config sets.
        named_facts: fill parameters by name, where the class has them.

    Raises:
        ConfigError: naming the option that does not exist, is missing, or has a wrong value.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{path}={node}: must be an option of its group, or a mapping with a _target_.")
    target = resolve(path, node["_target_"])
    options = {key: value for key, value in node.items() if key != "_target_"}
    parameters = inspect.signature(target).parameters
    named_facts = {name: value for name, value in named_facts.items() if name in parameters}
    _check_options(path, target, options, len(facts), named_facts)
    try:
        return instantiate(node, *facts, **named_facts, _convert_="all", _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, GantrainError):
            raise cause from None
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            raise cause from None
        reason = (str(cause).splitlines() or [""])[0]  # torch adds the lines of its own code
        if isinstance(cause, ValueError | TypeError):
            raise ConfigError(f"{path}: {reason}") from error
        # Out of memory, an overflow, a fault in a class of the user's own: none of it can be trained.
        raise ConfigError(f"{path} cannot be made of these options ({type(cause).__name__}: {reason}).") from error


def _check_options(path: str, target: Any, options: Node, num_facts: int, named_facts: Node) -> None:
    parameters = inspect.signature(target).parameters
    known = [name for name, p in list(parameters.items())[num_facts:] if p.kind is not p.VAR_KEYWORD]
    known = [name for name in known if name not in named_facts]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{path}.{name} is not an option of {target.__name__}, which takes {', '.join(known) or 'none'}; "
                f"leave it out (~{path}.{name})."
            )
    missing = [name for name in known if parameters[name].default is inspect.Parameter.empty and name not in options]
    if missing:
        raise ConfigError(
            f"{path}: {target.__name__} also needs {', '.join(missing)}; for example {path}.{missing[0]}=..."
        )
    hints = _type_hints(target)
    for name, value in options.items():
        if name in hints and not _fits(value, hints[name]):
            raise ConfigError(
                f"{path}.{name}={value} is not of the right type; {target.__name__} takes {spell(hints[name])}."
            )


def _type_hints(target: Any) -> dict[str, Any]:
    if getattr(target, "__module__", "").split(".")[0] != "gantrain":
        return {}  # hints of others (torch's tuples, say) are narrower than what they accept
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)


def _fits(value: object, hint: Any) -> bool:
    if isinstance(value, bool):  # a bool is an int to Python, but n=true is a mistake
        return hint is bool or (bool in typing.get_args(hint))
    return is_bearable(value, hint, conf=_NUMBERS)


def spell(hint: Any) -> str:
    """Write a type as a person would: "one of batch, none", "int", "a list of int"."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if not arguments:
        return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))
    if typing.get_origin(hint) in (list, Sequence) or "Sequence" in str(typing.get_origin(hint)):
        return f"a list of {spell(arguments[0])}"
    return " or ".join(map(spell, arguments))


def takes_fact(path: str, node: Any, name: str) -> bool:
    """Tell whether the class that a node names has a parameter of this name."""
    is_named = isinstance(node, dict) and "_target_" in node
    return is_named and name in inspect.signature(resolve(path, node["_target_"])).parameters


def make(path: str, node: Any, kind: Any, *facts: object, **named_facts: object) -> Any:
    """Make an object, which must be of a kind.

    Raises:
        ConfigError: it is not, or it cannot be made.
    """
    made = build(path, node, *facts, **named_facts)
    if not isinstance(made, kind):
        raise ConfigError(
            f"{path}._target_={node['_target_']} makes a {type(made).__name__}, which cannot serve as {path}; "
            "choose an option of gantrain --help."
        )
    return made


def make_all(group: str, nodes: Node, kind: Any) -> dict[str, Any]:
    """Make every option taken of a group, by name, in the order given."""
    return {name: make(f"{group}.{name}", nodes[name], kind) for name in chosen(nodes, group)}
