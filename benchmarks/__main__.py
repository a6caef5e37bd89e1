"""`python -m benchmarks [NAME [ARGUMENTS]...]`: run one benchmark, or without a name say which there are."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys

import benchmarks
from sealserve import logs


def names() -> list[str]:
    """The benchmarks: the modules beside this one that do not begin with an underscore."""
    return sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name[0] != "_")


def main(argv: list[str]) -> int:
    """Run the named benchmark with the rest of the arguments."""
    known = names()
    if not argv or argv[0] in {"-h", "--help"}:
        print(__doc__)
        for name in known:
            first = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").strip().partition("\n")[0]
            print(f"  {name:<12} {first}")
        return 0
    if argv[0] not in known:
        print(f"there is no benchmark {argv[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    logs.configure(json_lines=False, level=logging.ERROR)
    return importlib.import_module(f"benchmarks.{argv[0]}").main(argv[1:]) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
