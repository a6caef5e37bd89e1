"""``python -m sealserve`` and the command ``sealserve``."""

import signal

# Until `main` takes over there is nothing to clean up: Ctrl-C ends the process, and no import prints a traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from sealserve.cli.main import main

if __name__ == "__main__":
    main()
