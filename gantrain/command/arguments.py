"""Split the command's arguments into flags and overrides, and suggest corrections for what is neither."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from gantrain.command.explain import options
from gantrain.command.help import ORDER, groups
from gantrain.command.suggest import nearest
from gantrain.config import CONF, LIST_GROUPS, settings
from gantrain.errors import ConfigError, GantrainError


def split(arguments: Sequence[str], folders: Sequence[Path]) -> argparse.Namespace:
    """Split arguments into Hydra's flags and overrides.

    Args:
        folders: the folders of configs, whose options are suggested.

    Raises:
        ConfigError: an argument is an unknown flag, or a word without a value; the message suggests an override.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; see gantrain --help.")

    parser.error = refuse  # type: ignore[method-assign]
    known = {name for action in parser._actions for name in action.option_strings}
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if argument.startswith("--") and name not in known and not is_prefix(name, known):
            following = arguments[i + 1] if i + 1 < len(arguments) else ""
            raise ConfigError(explain_flag(name, value or (following if is_value(following) else ""), folders))
    given = parser.parse_intermixed_args(list(arguments))
    for word, following in zip_longest(given.overrides, given.overrides[1:], fillvalue=""):
        if not given.shell_completion and re.fullmatch(r"[^\W\d][\w-]*", word):
            raise ConfigError(explain_word(word, following if is_value(following) else "", folders))
    return given


def is_prefix(name: str, known: set[str]) -> bool:
    """Return whether argparse accepts a flag as an abbreviation, such as --multi for --multirun."""
    return len(name) > 3 and any(flag.startswith(name) for flag in known)


def is_value(argument: str) -> bool:
    """Return whether an argument could be the value of the flag before it."""
    return bool(argument) and not argument.startswith("-") and "=" not in argument


def explain_flag(flag: str, value: str, folders: Sequence[Path]) -> str:
    """Return the error message for an unknown flag: --batch-size=32 suggests the override batch_size=32."""
    key = flag.removeprefix("--").replace("-", "_")
    if suggestion := suggest_override(key, value, folders):
        return f"{flag}: settings are given as key=value; you probably mean {suggestion}"
    hint = nearest(key, [*(setting.key for setting in settings()), *groups(folders)])
    return f"{flag}: there is no such flag.{hint} Settings are given as key=value; see gantrain --help."


def suggest_override(key: str, value: str, folders: Sequence[Path]) -> str | None:
    """Return the override that sets a key, given by its full name or its last part; None if there is no such key."""
    names, keys = groups(folders), [setting.key for setting in settings()]
    ends = [k for k in ("optimizer.lr", "optimizer.betas", *keys) if k.rpartition(".")[2] == key]
    if key not in keys and key.partition(".")[0] not in names:
        if len(ends) != 1 and key != "learning_rate":
            return None
        key = ends[0] if ends else "optimizer.lr"
    value = value or "..."
    if key == "schedule/shape":
        return f"schedule=[lr] schedule/shape@schedule.lr={value}"
    return f"{key}=[{value.strip('[]')}]" if key in LIST_GROUPS else f"{key}={value}"


def explain_word(word: str, following: str, folders: Sequence[Path]) -> str:
    """Return the error message for a word without a value: wgan_gp suggests the override model=wgan_gp."""
    if word == "train":
        return "train: gantrain trains by default; leave the word out."
    option, names = word.replace("-", "_"), groups(folders)
    if option in (*names, *(setting.key for setting in settings())):
        suggestion = suggest_override(option, following, folders)
        return f"{word}: settings are given as key=value; you probably mean {suggestion}"
    order = ["model", "dataset", "task", "experiment", *ORDER]
    names.sort(key=lambda group: (order.index(group) if group in order else 99, group))
    for group in names:
        if option in options(group, folders):
            suggestion = suggest_override(group, option, folders)
            return f"{word}: options are chosen by group=option; you probably mean {suggestion}"
    known = [option for group in names for option in options(group, folders)]
    return f"{word}: settings are given as key=value.{nearest(option, known)} See gantrain --help."


def check_own_options(folders: Sequence[Path]) -> None:
    """Check that no config of the user has the name of a shipped one; Hydra would silently ignore one of the two.

    Raises:
        ConfigError: a config has the name of a shipped one.
    """
    shipped = [path.relative_to(CONF) for path in CONF.rglob("*.yaml")]
    for folder in folders:
        for name in shipped if folder.resolve() != CONF.resolve() else ():
            path = folder / name
            if path.exists():
                option = f"{name.parent}={name.stem}" if name.parent.name else name.stem
                raise ConfigError(
                    f"{path}: {option} is shipped with gantrain, and one of the two would be ignored; rename yours, "
                    f"for example {path.with_name(f'my_{path.name}')}."
                )


def print_to_stdout(text: str) -> None:
    """Print to stdout; a closed pipe, as with `| head`, is not an error.

    Raises:
        GantrainError: stdout cannot be written to.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # for characters that the locale cannot encode
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout again at exit, which would fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise GantrainError(f"stdout cannot be written to ({error.strerror}).") from error
