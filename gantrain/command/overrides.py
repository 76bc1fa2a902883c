"""Parse and format overrides, and combine those of the command line with those of a run that is resumed."""

import re
import shlex
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from gantrain.config import settings
from gantrain.errors import ConfigError, DataError
from gantrain.session.saved import holds_run, is_below, load_yaml, require_regular_files


def with_saved_overrides(typed: Sequence[str]) -> list[str]:
    """Prepend the saved overrides of the run that `resume` names, if it names one.

    Typed overrides win over saved ones. The saved run_dir and trust are ignored.

    Args:
        typed: the overrides of the command line.

    Raises:
        ConfigError: resume is not the folder of a run, or contradicts run_dir.
        DataError: the saved overrides are damaged.
    """
    wanted = {key_of(override): value_of(override) for override in typed}
    resume = wanted.get("resume", "auto")
    if resume in ("auto", "null"):
        return list(typed)
    folder = Path(resume).expanduser()
    if "run_dir" in wanted and Path(wanted["run_dir"]) != folder:
        raise ConfigError(
            f"run_dir={wanted['run_dir']} resume={resume}: a run is resumed in its own folder; leave out run_dir."
        )
    if not holds_run(folder):
        raise ConfigError(f"resume={resume}: must be auto, null or the folder of a run, but {explain_no_run(folder)}.")
    saved = saved_overrides(folder)
    replaced = {*wanted, "run_dir", "resume", "trust", "allow_change", "task"}
    replaced |= {"steps", "epochs"} if {"steps", "epochs"} & {*wanted} else set()
    # A saved option of a replaced part does not apply any more, such as optimizer.betas with optimizer=sgd.
    kept = [override for override in saved if not any(is_below(key_of(override), key) for key in replaced)]
    # An entry that begins with - would be parsed as a flag.
    kept = [override for override in kept if not key_of(override).startswith(("hydra", "-"))]
    return [*kept, *typed, f"run_dir={quote(str(folder))}"]


def explain_no_run(folder: Path) -> str:
    """Describe what is at the path of a run instead of the folder of a run, and what can be done."""
    if folder.is_file():
        return (
            f"{folder} is a file. To start a new run from its weights, set init_from={folder}; to resume its run, put "
            "it into FOLDER/checkpoints and set resume=FOLDER"
        )
    if next(folder.glob("step_*.pt"), None) is not None:
        return f"the checkpoints of {folder} are not in {folder}/checkpoints; move them there"
    return f"{folder} holds no run; look in outputs"


def saved_overrides(folder: Path) -> list[str]:
    """Read the overrides of a run; if its folder was copied without the hidden .hydra, from its newest checkpoint.

    Raises:
        DataError: they are missing or damaged.
    """
    path = folder / ".hydra" / "overrides.yaml"
    if path.exists() or path.is_symlink():
        saved, problem = load_yaml(path), f"{path} is damaged: it must be a list of overrides"
    else:
        from gantrain.session.checkpoint import newest  # imports torch, which takes more than a second

        require_regular_files(folder)
        found = newest(folder)
        saved = None if found is None else found[1].get("overrides")
        where = "there is no checkpoint" if found is None else f"{found[0]}, of an earlier version, does not hold them"
        problem = f"{path} with the overrides of the run is missing, and {where}"
    if not isinstance(saved, list) or not all(isinstance(override, str) for override in saved):
        raise DataError(f"{problem}. Repeat the run's command with run_dir={folder}.")
    return saved


SAVED_PARTS = ("metric", "dataset", "features")
"""The groups that task=evaluate takes from the run, unless the command chooses another option."""


def with_options_of_run(typed: Sequence[str]) -> list[str]:
    """Let task=evaluate run=... change options of the run's parts: `metric.fid.num_samples=100` without `metric=[fid]`.

    The composed config has no such keys, because the run is not read yet, so Hydra must be told to add them.
    """
    wanted = {key_of(override): value_of(override) for override in typed}
    if wanted.get("task") != "evaluate" or "run" not in wanted:
        return list(typed)
    groups = [f"{group}." for group in SAVED_PARTS if group not in wanted]
    return [f"++{override}" if override.startswith(tuple(groups)) else override for override in typed]


def with_whole_numbers(overrides: Sequence[str]) -> list[str]:
    """Write numbers such as 1e5 in the overrides of whole numbers as 100000, also in a sweep; Hydra reads a float."""
    keys = {setting.key for setting in settings() if setting.is_whole}
    return [_with_whole_numbers(override) if key_of(override) in keys else override for override in overrides]


def _with_whole_numbers(override: str) -> str:
    name, equals, value = override.partition("=")

    def whole(found: re.Match[str]) -> str:
        number = Decimal(found[0])
        return str(int(number)) if number == number.to_integral_value() else found[0]

    return name + equals + re.sub(r"(?<![^,])\d+(\.\d*)?[eE]\+?\d{1,2}(?![^,])", whole, value)


def key_of(override: str) -> str:
    """Return the key or group of an override."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].strip()


def value_of(override: str) -> str:
    """Return the value of an override without quotes; the raw text if Hydra cannot parse it."""
    try:
        value = OverridesParser.create().parse_override(override).value()
    except (HydraException, ValueError, RecursionError):
        return override.partition("=")[2]
    return "null" if value is None else str(value)


def quote(value: str) -> str:
    """Quote a value if necessary, so that Hydra reads it as this string."""
    if re.fullmatch(r"[\w./:+-]+", value, re.ASCII) and not re.fullmatch(
        r"[\d._e+-]+|null|true|false|inf|nan", value, re.I
    ):
        return value
    # In Hydra's grammar a backslash escapes only before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (f"\\{found[2]}" if found[2] else ""), value) + "'"


def shell_command(*words: str) -> str:
    """Quote a command for the shell; unlike shlex.join, with double quotes around the single quotes of Hydra."""
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in words
    )
