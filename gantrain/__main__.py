"""`python -m gantrain` is the `gantrain` command."""

from gantrain.cli import main

main()
