"""``python -m coterie`` is the command ``coterie``."""

from coterie.cli.main import main

main()
