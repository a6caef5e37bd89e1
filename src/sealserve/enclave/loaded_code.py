"""Whether the code that runs is the code that was measured.

The measurement of a simulated enclave covers source files. Python runs the bytecode in ``__pycache__`` instead when
that says it was made from the source as it is now, and believes it. So what Python would run is compared with what
the source compiles to.

It finds a cache that somebody poisoned. It does not find one that poisons this check, nor one that is put back after
it was loaded: on the simulated platform nothing can. Under Gramine caches are files like others, and measured.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path

import sealserve
from sealserve.errors import TrustError


class UnmeasuredCodeError(TrustError):
    """A module of sealserve was not loaded from the source file that is measured."""


def check_loaded_code() -> None:
    """Compare all modules of sealserve that are loaded with their sources. It takes about 1 ms for each.

    :raises UnmeasuredCodeError: one came from elsewhere, or from a cache that says something else.
    """
    root = Path(sealserve.__path__[0])
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.name.partition(".")[0] == sealserve.__name__:
            _check(spec, root)


def _check(spec: ModuleSpec, root: Path) -> None:
    loader, source = spec.loader, spec.origin
    if type(loader) is not SourceFileLoader or source is None or not Path(source).is_relative_to(root):
        raise UnmeasuredCodeError(f"{spec.name} was loaded from {source}, which is not measured", hint=_HINT)
    # get_code gives what an import runs: from the cache, if Python takes it for good.
    if loader.get_code(spec.name) != loader.source_to_code(loader.get_data(source), source):
        raise UnmeasuredCodeError(f"the compiled cache of {source} is not what its source compiles to", hint=_HINT)


_HINT = "Remove the __pycache__ directories of the package, or install it again, and find out who changed it."
