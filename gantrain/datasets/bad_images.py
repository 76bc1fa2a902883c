"""Report images that are not used."""

import logging
import math
from collections.abc import Mapping, Sequence

from gantrain.datasets.images import OWN
from gantrain.datasets.untrusted import printable
from gantrain.errors import DataError

logger = logging.getLogger(__name__)
_NUM_SHOWN = 5


def report_bad(origin: str, names: Sequence[str], found: Mapping[str, str], max_bad_fraction: float) -> None:
    """Log which images are left out.

    Args:
        origin: where the images come from.
        names: of all images.
        found: the reason for each image that is not used, by name.

    Raises:
        DataError: more than max_bad_fraction are bad, or no image is left.
    """
    bad = {name: reason for name, reason in found.items() if reason != OWN}
    own = [printable(name) for name in found if name not in bad]
    if own:
        named = ", ".join(own[:_NUM_SHOWN]) + ", ..." * (len(own) > _NUM_SHOWN)
        message = f"{len(own):,} of {len(names):,} images of {origin} were made by gantrain: {named}."
        if len(found) == len(names) and not bad:
            raise DataError(f"{message} None is left to train on.")
        logger.info("%s They are left out.", message)
    if not bad:
        return
    shown = [f"{printable(name)} {reason}" for name, reason in list(bad.items())[:_NUM_SHOWN]]
    num_hidden, total = len(bad) - len(shown), len(names)
    message = f"{len(bad):,} of {total:,} images of {origin} are bad: {'; '.join(shown)}"
    message += f"; and {num_hidden:,} more" if num_hidden else ""
    if len(found) == total:
        raise DataError(f"{message}. None is left to train on.")
    if len(bad) / total > max_bad_fraction:
        remedy = math.ceil(100 * len(bad) / total) / 100
        raise DataError(f"{message}. Remove or replace them, or leave them out with dataset.max_bad_fraction={remedy}.")
    logger.warning("%s. They are left out.", message)
