"""Import matplotlib to draw in memory, whatever the environment says of backends and styles.

Notebooks name in MPLBACKEND a backend that may not be installed where the command runs, and matplotlib then fails to
import. Nothing here uses pyplot, so no backend is ever loaded. This is the only module that imports matplotlib.
"""

import os
import sys
from contextlib import suppress

_is_first = "matplotlib" not in sys.modules
_kept = {name: os.environ.pop(name) for name in ("MPLBACKEND", "MATPLOTLIBRC") if name in os.environ}
try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator
finally:
    os.environ.update(_kept)

if _is_first:  # otherwise the settings belong to the program that uses gantrain
    matplotlib.rcdefaults()  # the pictures of a run depend on no matplotlibrc
    if "MPLBACKEND" in _kept:
        with suppress(ValueError):  # for the user's own code that draws with pyplot
            matplotlib.rcParams["backend"] = _kept["MPLBACKEND"]

__all__ = ["Axes", "Figure", "FigureCanvasAgg", "Line2D", "MaxNLocator"]
