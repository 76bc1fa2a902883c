"""Turn errors of Hydra and OmegaConf into messages for the user."""

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gantrain.command.default import EXPERIMENT, takes_default, with_default_experiment
from gantrain.command.help import config_folders, groups, options_of
from gantrain.command.suggest import flat_keys, nearest
from gantrain.config import CONF, LIST_GROUPS
from gantrain.errors import ConfigError, GantrainError
from gantrain.files import explain_os_error


def explain(error: BaseException, arguments: Sequence[str]) -> GantrainError | None:
    """Return the error for the user behind an exception, or None if the user did not cause it."""
    for cause in causes(error):
        if isinstance(cause, GantrainError):
            return cause
        if isinstance(cause, OverrideParseException):
            return ConfigError(_unreadable(cause.override))
        if isinstance(cause, yaml.MarkedYAMLError) and (mark := cause.problem_mark):
            return ConfigError(f"{mark.name}, line {mark.line + 1}: {cause.problem}; invalid YAML.")
        if isinstance(cause, UnicodeDecodeError) and (path := not_utf8(config_folders(arguments)[1:])):
            return ConfigError(f"{path} is not UTF-8 text; save it in the encoding UTF-8.")
        if isinstance(cause, MemoryError):
            return GantrainError("The memory of this process ran out.")
    if isinstance(error, MissingConfigException):
        return ConfigError(_missing_option(str(error), config_folders(arguments)))
    if isinstance(error, OSError):
        return explain_os_error(error, "The command")
    if isinstance(error, InstantiationException):
        return None  # the object's own failure
    if isinstance(error, RuntimeError) and 'Could not detect "srun"' in str(error):  # submitit's words
        return ConfigError(
            "hydra/launcher: SLURM is not available (srun is not found); run gantrain on a login node, or "
            "use hydra/launcher=devices for the GPUs of this machine."
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        return ConfigError(_composition("\n".join(str(cause) for cause in causes(error)), arguments))
    return None


def not_utf8(folders: Sequence[Path]) -> Path | None:
    """Return a config in the folders that is not UTF-8 text, which the YAML reader requires but does not name."""
    for path in (path for folder in folders for path in sorted(folder.rglob("*.yaml")) if path.is_file()):
        try:
            path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return path
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception, the exception that caused it, and so on."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _unreadable(override: str) -> str:
    key, _, value = override.partition("=")
    if value.startswith("~"):
        return f"{override}: the shell does not expand ~ here; write {key}=$HOME{value[1:]}."
    shown = override if override.strip() and override.isprintable() else repr(override)
    return (
        f"{shown} cannot be read. An override is key=value; keys consist of a-z, 0-9, _ and dots. Put quotes around "
        "values with spaces, commas, braces or other symbols, for example 'run_dir=\"my run\"'."
    )


def _missing_option(message: str, folders: Sequence[Path]) -> str:
    found = re.search(
        r"Could not find '([^']+)'|Could not load '([^']+)'|Cannot find primary config '([^']+)'", message
    )
    if found is None:
        return message.strip()
    name = next(filter(None, found.groups()))
    group, _, option = name.rpartition("/")
    available = options(group, folders)
    if group == "hydra/launcher" and option.startswith("submitit") and find_spec("submitit") is None:
        return f"{group}={option}: the launcher for clusters is not installed; pip install 'gantrain[slurm]'."
    for path in (folder / f"{name}{suffix}" for folder in folders[1:] for suffix in (".yaml", ".yml")):
        if path.suffix == ".yml" and path.is_file():
            return f"{group}={option}: the name of a config ends in .yaml; rename {path} to {path.stem}.yaml."
        if path.is_symlink() and not path.exists():
            return f"{group}={option}: {path} is a link to {path.readlink()}, which does not exist."
        if path.exists():
            return f"{group}={option}: {path} is not a file."
    if not available:
        return f"{name}: there is no such config; see gantrain --help for the groups and their options."
    return f"{group}={option}: no such option.{nearest(option, available)} The options are {', '.join(available)}."


def _composition(message: str, arguments: Sequence[str]) -> str:
    first = message.strip().splitlines()[0]
    full_key = re.search(r"full_key: (\S+)", message)
    if found := re.search(r"Could not override '([^']+)'", message):
        # The first is the key that was typed; the second may be below it, as in dataset={rot: photos}.
        return _unknown_key(max(found[1], full_key[1] if full_key else "", key=len), message, arguments)
    if found := re.search(r"Could not append to config. An item is already at '([^']+)'", message):
        return f"+{found[1]}: the key already exists; leave out the +."
    if found := re.search(r"Could not delete '([^']+)'", message):
        if found[1] in LIST_GROUPS:
            return f"~{found[1]}: a list cannot be removed; empty it with {found[1]}=[]."
        return f"~{found[1]}: there is no such key or group.{nearest(found[1], known_keys(arguments))}"
    if found := re.search(r"Could not delete from config. '([^']+)' does not exist", message):
        return f"~{found[1]}: it is null already; leave this out."
    if found := re.search(r"Ambiguous value for argument '([^']+)'", message):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: values separated by commas are a sweep: add -m; a list is '{key}=[{value}]'."
    if found := re.search(r"Error merging override (\S+)=null", message):
        return f"{found[1]}=null: must have a value; leave it out to use the default."
    if found := re.search(r"Value '(.*)' of type '.*?' could not be converted to (\w+)", message):
        value, wanted = found.groups()
        key = full_key[1] if full_key else "a key"
        return f"{key}={value}: must be {_kind(wanted)}, and {value!r} is not."
    if found := re.search(r"Error merging override (.+)\n(.+)", message):
        return f"{found[1]}: {found[2]}; set its keys one by one."
    return f"{full_key[1]}: {first}" if full_key and full_key[1] not in first else first


def _unknown_key(key: str, message: str, arguments: Sequence[str]) -> str:
    names, parent = known_keys(arguments), key.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent]
    hint = ""
    if key.startswith("model.") and takes_default(arguments):
        hint = f" (The default is experiment={EXPERIMENT}; for the options of DCGAN add model=dcgan.)"
    if key == "dataset.root":
        return f"{key}: this dataset has no folder; for your own pictures, add dataset=image_folder."
    if f"{parent}._target_" in siblings and not nearest(key, siblings):
        added = re.search(r"To append to your config use (.+)", message)
        return (
            f"{key}: there is no such key in the config. If the class has such an option, add it with +: "
            f"{added[1] if added else f'+{key}=...'}{hint}"
        )
    return f"{key}: there is no such key or group.{nearest(key, names)}{hint} See gantrain --help."


def _kind(name: str) -> str:
    return {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(name, name)


def options(group: str, folders: Sequence[Path] = (CONF,)) -> list[str]:
    """List the options of a group."""
    return sorted({option for folder in folders for option in options_of(group, [folder])}) if group else []


def known_keys(arguments: Sequence[str]) -> list[str]:
    """List every key of the config with the options that the arguments choose, and every group, for suggestions."""
    folders = config_folders(arguments)
    arguments = with_default_experiment(arguments) if takes_default(arguments) else arguments
    chosen = [
        argument
        for argument in arguments
        if (m := re.fullmatch(r"(\w+)=\[?([\w,]+)\]?", argument)) and set(m[2].split(",")) <= {*options(m[1], folders)}
    ]
    own = ",".join(f"'file://{folder.absolute()}'" for folder in folders[1:])
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF.absolute()), version_base="1.3"):
            config = OmegaConf.to_container(compose("train", overrides=[*chosen, f"hydra.searchpath=[{own}]"]))
    except HydraException:  # the chosen options do not compose; there are no keys to suggest
        config = {}
    # A schedule has the name of what it changes, which is suggested first.
    return [*sorted(flat_keys(config), key=lambda key: key.startswith("schedule.")), *groups(folders)]
