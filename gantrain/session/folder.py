"""Write the config and the warnings of a run into its folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from gantrain.config import Config, to_dict
from gantrain.errors import ConfigError
from gantrain.files import atomic_write


def save_config(folder: Path, config: Config, typed: list[str]) -> None:
    """Save the resolved config of the run, and the overrides that it was composed from."""
    (folder / ".hydra").mkdir(exist_ok=True)
    # The config last, because a folder with a config counts as that of a run.
    for name, content in (("overrides", typed), ("config", to_dict(config))):
        with atomic_write(folder / ".hydra" / f"{name}.yaml") as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(content)).encode())


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Also write warnings to a file while the block runs.

    Raises:
        ConfigError: the file is a symbolic link, which could lead to any other file.
    """
    if path.is_symlink():
        raise ConfigError(f"{path} is a link, which gantrain never creates; the folder may have been tampered with.")
    handler = logging.FileHandler(path, delay=True)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
