"""Split the command's arguments into flags and overrides, and answer habits of other programs with what was meant."""

import argparse
import os
import sys
from collections.abc import Sequence
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
        folders: of configs, to know the options that could have been meant.

    Raises:
        ConfigError: a flag or a word that gantrain does not know, with the line that was probably meant.
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
            raise ConfigError(flag_meant(name, value or (following if is_value(following) else ""), folders))
    given = parser.parse_intermixed_args(list(arguments))
    for override in given.overrides:
        if not given.shell_completion and override.isidentifier():
            raise ConfigError(word_meant(override, folders))
    return given


def is_prefix(name: str, known: set[str]) -> bool:
    """Tell whether argparse takes a flag for a longer one, as --multi for --multirun."""
    return len(name) > 3 and any(flag.startswith(name) for flag in known)


def is_value(argument: str) -> bool:
    """Tell whether an argument could be the value of the flag before it."""
    return bool(argument) and not argument.startswith("-") and "=" not in argument


def flag_meant(flag: str, value: str, folders: Sequence[Path]) -> str:
    """Answer a flag of another program's kind, as --batch-size=32, with the override that sets the same."""
    key = flag.removeprefix("--").replace("-", "_")
    keys = [*(setting.key for setting in settings()), *groups(folders)]
    if key in keys:
        return f"{flag}: settings are given as key=value; you probably mean {key}={value or '...'}"
    if key in ("lr", "learning_rate"):
        return f"{flag}: settings are given as key=value; you probably mean optimizer.lr={value or '...'}"
    return f"{flag}: there is no such flag.{nearest(key, keys)} Settings are given as key=value; see gantrain --help."


def word_meant(word: str, folders: Sequence[Path]) -> str:
    """Answer a word without a value, as wgan_gp, with the override that chooses the option of that name."""
    if word == "train":
        return "train: gantrain trains by default; leave the word out."
    order = ["task", "experiment", *ORDER]
    names = sorted(groups(folders), key=lambda group: (order.index(group) if group in order else 99, group))
    found = [group for group in names if word in options(group, folders)]
    preferred = [group for group in ("model", "dataset", *names) if group in found]
    if preferred:
        group = preferred[0]
        meant = f"{group}=[{word}]" if group in LIST_GROUPS else f"{group}={word}"
        return f"{word}: options are chosen by group=option; you probably mean {meant}"
    known = [option for group in names for option in options(group, folders)]
    return f"{word}: settings are given as key=value.{nearest(word, known)} See gantrain --help."


def check_own_options(folders: Sequence[Path]) -> None:
    """Refuse a config of the user's own with the name of a shipped one, which would be shadowed without a message.

    Raises:
        ConfigError: naming the file and the remedy.
    """
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")) if folder != CONF else ():
            name = path.relative_to(folder)
            if (CONF / name).exists():
                new = path.with_name(f"my_{path.name}")
                raise ConfigError(
                    f"{path}: {name.parent}={name.stem} is shipped with gantrain, and Hydra would take one of the two "
                    f"without a word; rename yours, for example {new}."
                )


def print_or_leave(text: str) -> None:
    """Print to stdout; quietly where nobody reads on, as behind `| head`.

    Raises:
        GantrainError: stdout cannot be written to.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # an ASCII locale
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise GantrainError(f"stdout cannot be written to ({error.strerror}).") from error
