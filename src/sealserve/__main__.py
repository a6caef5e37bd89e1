"""``python -m sealserve`` is the command ``sealserve``."""

from sealserve.cli.main import main

main()
