"""Make objects from nodes of the config; the only module that calls hydra.utils.instantiate."""

import inspect
import typing
from collections.abc import Sequence
from typing import Any

from beartype import BeartypeConf
from beartype.door import is_bearable
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from gantrain.command.trust import resolve
from gantrain.config import Node, selected_options
from gantrain.errors import ConfigError, GantrainError
from gantrain.files import DISK_FULL

# Accept an int for a float, as Python does.
_NUMBERS = BeartypeConf(is_pep484_tower=True)


def build(path: str, node: Any, *arguments: object, **keyword_arguments: object) -> Any:
    """Make the object that a node of the config describes, with the node's options as keyword arguments.

    Args:
        path: dotted key of the node, for messages.
        arguments: positional arguments that gantrain computes, for example the shape of the images.
        keyword_arguments: more arguments that gantrain computes; those that the class does not take are left out.

    Raises:
        ConfigError: an option does not exist, is missing, or has a wrong value; the message names it.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(
            f"{path}={node}: must be one of the options in gantrain --help, or a mapping with a _target_."
        )
    target = resolve(path, node["_target_"])
    node = _with_whole_numbers(node, _type_hints(target))
    options = {key: value for key, value in node.items() if key != "_target_"}
    parameters = inspect.signature(target).parameters
    keyword_arguments = {name: value for name, value in keyword_arguments.items() if name in parameters}
    _check_options(path, target, options, len(arguments), keyword_arguments)
    try:
        return instantiate(node, *arguments, **keyword_arguments, _convert_="all", _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, GantrainError):
            raise cause from None
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            raise cause from None
        reason = (str(cause).splitlines() or [""])[0]  # further lines of torch's messages are stack frames
        if isinstance(cause, ValueError | TypeError):
            raise ConfigError(f"{path}: {reason}") from error
        # For example out of memory, an overflow, or a bug in the user's class.
        raise ConfigError(f"{path} cannot be made with these options ({type(cause).__name__}: {reason}).") from error


def _check_options(path: str, target: Any, options: Node, num_arguments: int, keyword_arguments: Node) -> None:
    parameters = inspect.signature(target).parameters
    known = [name for name, p in list(parameters.items())[num_arguments:] if p.kind is not p.VAR_KEYWORD]
    known = [name for name in known if name not in keyword_arguments]
    if unknown := [f"{path}.{name}" for name in options if name not in known]:
        what = "is not an option" if len(unknown) == 1 else "are not options"
        raise ConfigError(
            f"{', '.join(unknown)} {what} of {target.__name__}, which takes {', '.join(known) or 'none'}; "
            f"leave {'it' if len(unknown) == 1 else 'them'} out ({' '.join(f'~{name}' for name in unknown)})."
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
                f"{path}.{name}={value} has the wrong type; {target.__name__} takes {format_type(hints[name])}."
            )


def _type_hints(target: Any) -> dict[str, Any]:
    if getattr(target, "__module__", "").split(".")[0] != "gantrain":
        return {}  # other packages accept more than their hints say: torch takes lists where its hints say tuple
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)


def _with_whole_numbers(node: Node, hints: dict[str, Any]) -> Node:
    # 1e5 is a float in YAML and in overrides.
    whole = {name for name, hint in hints.items() if hint is int or set(typing.get_args(hint)) == {int, type(None)}}
    return {
        key: int(value) if key in whole and isinstance(value, float) and value.is_integer() else value
        for key, value in node.items()
    }


def _fits(value: object, hint: Any) -> bool:
    if isinstance(value, bool):  # in Python a bool is an int, but n=true is a mistake
        return hint is bool or (bool in typing.get_args(hint))
    return is_bearable(value, hint, conf=_NUMBERS)


def format_type(hint: Any) -> str:
    """Format a type for a message, for example "one of batch, none", "int", "a list of int"."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if not arguments:
        return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))
    if typing.get_origin(hint) in (list, Sequence) or "Sequence" in str(typing.get_origin(hint)):
        return f"a list of {format_type(arguments[0])}"
    return " or ".join(map(format_type, arguments))


def takes_parameter(path: str, node: Any, name: str) -> bool:
    """Return whether the class of a node has a parameter of this name."""
    has_class = isinstance(node, dict) and "_target_" in node
    return has_class and name in inspect.signature(resolve(path, node["_target_"])).parameters


def make(path: str, node: Any, kind: Any, *arguments: object, **keyword_arguments: object) -> Any:
    """Make the object that a node of the config describes, as `build` does, and check its type.

    Args:
        kind: a type or a tuple of types, one of which the object must have.

    Raises:
        ConfigError: it has another type, or it cannot be made.
    """
    made = build(path, node, *arguments, **keyword_arguments)
    if not isinstance(made, kind):
        raise ConfigError(
            f"{path}._target_={node['_target_']} makes a {type(made).__name__}, which cannot be used as {path}; "
            "choose one of the options in gantrain --help."
        )
    return made


def make_all(group: str, nodes: Node, kind: Any) -> dict[str, Any]:
    """Make the selected options of a group in LIST_GROUPS, by name, in the order of the config."""
    return {name: make(f"{group}.{name}", nodes[name], kind) for name in selected_options(nodes, group)}
