"""``python -m zoo_slim.cli``."""

from zoo_slim.cli import main

main()
