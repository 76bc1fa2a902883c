"""The text of `gantrain --help`, generated from the configs."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from gantrain.config import CONF, settings

USAGE = """\
gantrain trains generative adversarial networks.

  gantrain                                     the default: experiment=digits, the included digits by class
  gantrain model=wgan_gp dataset=celeba        a recipe on a dataset
  gantrain model=dcgan loss=lsgan n_critic=2   a recipe with overrides
  gantrain experiment=gaussian                 a whole experiment by name
  gantrain dataset=image_folder dataset.root=photos
                                               your own images
  gantrain model=auto dataset=image_folder dataset.root=photos
                                               the same, with the recipe that suits them
  gantrain task=data dataset=image_folder dataset.root=photos output=look.png
                                               a look at them before
  gantrain -m model=dcgan,wgan_gp seed=0,1     a sweep: one run for every combination
  gantrain task=sample run=outputs/DATE/TIME num=10000 output=samples.npz
                                               samples of a run
  gantrain task=evaluate run=outputs/DATE/TIME checkpoints=all output=scores.json
                                               its metrics
  gantrain --cfg job                           print the composed config and stop
  gantrain --version                           print the version

Groups, chosen by group=option (lists by group=[one,two]):
"""

CLOSING = """
Keys of an option are below its group: optimizer.lr=1e-4 model.generator.width=32 dataset.root=photos.
Every key with its value: gantrain --cfg job model=wgan_gp. Other arguments of a class: +optimizer.eps=1e-7.
Your own configs: gantrain --config-dir FOLDER experiment=NAME. Tab completion: eval "$(gantrain -sc install=bash)".
More of Hydra's own flags: gantrain --hydra-help."""

ORDER = (
    *("model", "network", "latent", "loss", "regularizer", "augment"),
    *("optimizer", "discriminator_optimizer", "schedule", "schedule/shape", "dataset", "metric", "features", "verdict"),
)


def help_text(arguments: Sequence[str]) -> str:
    """Return the help text: usage, every group and its options with one line each, and the top-level keys.

    Args:
        arguments: the command's arguments; the groups of a --config-dir are listed too.
    """
    folders = config_folders(arguments)
    listed = [setting for setting in settings() if setting.text and is_listed(setting.key)]
    options = {group: options_of(group, folders) for group in groups(folders)}
    width = max(len(name) for names in [*options.values(), [setting.key for setting in listed]] for name in names)
    lines = [USAGE]
    for group in sorted(options, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        lines.append(group)
        lines += [f"  {option:<{width}} {describe(path)}" for option, path in options[group].items()]
    lines.append("\nKeys, set by key=value:")
    lines += [f"  {setting.key:<{width}} {setting.text} [{format_default(setting.default)}]" for setting in listed]
    return "\n".join([*lines, CLOSING])


def options_of(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the config files of a group, by option."""
    paths = (path for folder in folders for path in sorted((folder / group).glob("*.yaml")))
    return {path.stem: path for path in paths if path.is_file()}


def groups(folders: Sequence[Path] = (CONF,)) -> list[str]:
    """List the groups of the configs in the folders."""
    files = [(path, folder) for folder in folders for path in folder.glob("*/**/*.yaml")]
    return sorted({path.parent.relative_to(folder).as_posix() for path, folder in files})


def describe(path: Path) -> str:
    """Return the description of a config file: its first comment."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line[2:]
    return ""


def is_listed(key: str) -> bool:
    """Return whether the help lists a setting; those of runtime are described in conf/runtime."""
    return not key.startswith("runtime.")


def format_default(value: object) -> str:
    """Format a default value as in an override."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """List the folders of configs: the shipped one, then those of --config-dir."""
    following = [b for a, b in pairwise(arguments) if a in ("--config-dir", "-cd")]
    joined = [a.split("=", 1)[1] for a in arguments if a.startswith("--config-dir=")]
    return [CONF, *(Path(folder) for folder in (*following, *joined) if Path(folder).is_dir())]
