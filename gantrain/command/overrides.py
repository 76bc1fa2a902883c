"""Overrides, as they are typed: their parts, how to write them, and those that a run was made with."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from gantrain.errors import ConfigError, DataError
from gantrain.session.saved import holds_run, is_below, load_yaml


def with_saved_overrides(typed: Sequence[str]) -> list[str]:
    """Put the overrides that made a run before those that were typed, where these name a run to go on with.

    What was typed wins. Neither the place nor the trust that was given then is taken over.

    Raises:
        ConfigError: resume does not name the folder of a run, or contradicts run_dir.
        DataError: the folder's files are broken.
    """
    wanted = {key_of(override): value_of(override) for override in typed}
    resume = wanted.get("resume", "auto")
    if resume in ("auto", "null"):
        return list(typed)
    folder = Path(resume).expanduser()
    if "run_dir" in wanted and Path(wanted["run_dir"]) != folder:
        raise ConfigError(
            f"run_dir={wanted['run_dir']} resume={resume}: a run goes on in its own folder; leave out run_dir."
        )
    if not holds_run(folder):
        raise ConfigError(
            f"resume={resume}: must be auto, null or the folder of a run, and {folder} holds none; "
            "see what is in outputs."
        )
    path = folder / ".hydra" / "overrides.yaml"
    saved = load_yaml(path)
    if not isinstance(saved, list) or not all(isinstance(override, str) for override in saved):
        raise DataError(
            f"{path} is damaged: it must be a list of overrides. Give the run's whole command with run_dir={resume}."
        )
    replaced = {*wanted, "run_dir", "resume", "trust", "allow_change", "task"}
    replaced |= {"steps", "epochs"} if {"steps", "epochs"} & {*wanted} else set()
    # An option of what was exchanged for another has no place any more, as optimizer.betas with optimizer=sgd.
    kept = [override for override in saved if not any(is_below(key_of(override), key) for key in replaced)]
    kept = [
        override for override in kept if not key_of(override).startswith(("hydra", "-"))
    ]  # flags would be read as such
    return [*kept, *typed, f"run_dir={quote(str(folder))}"]


def key_of(override: str) -> str:
    """Cut an override down to its key or group."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].strip()


def value_of(override: str) -> str:
    """Read the value of an override, without the quotes around it; as it stands where Hydra could not read it."""
    try:
        value = OverridesParser.create().parse_override(override).value()
    except (HydraException, ValueError, RecursionError):
        return override.partition("=")[2]
    return "null" if value is None else str(value)


def quote(value: str) -> str:
    """Write a value so that Hydra's grammar reads it as it is."""
    if re.fullmatch(r"[\w./:+-]+", value, re.ASCII) and not re.fullmatch(
        r"[\d.e+-]+|null|true|false|inf|nan", value, re.I
    ):
        return value
    # A backslash stands for itself but before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (f"\\{found[2]}" if found[2] else ""), value) + "'"


def shell_command(*words: str) -> str:
    """Write a command as a person would type it; shlex.join makes a thicket of the quotes that Hydra needs."""
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in words
    )
