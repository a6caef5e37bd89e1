"""The command line: one file per group of commands, and no logic.

A command parses its arguments, calls one room, and prints. Whatever it needs beyond that it imports when it runs, so
that ``--help`` is quick and a partial installation (the client alone, say) still has a working command line.
"""
