"""The engines by their names. One is imported, with all that it needs, when it is asked for."""

from __future__ import annotations

from sealserve.errors import ConfigurationError
from sealserve.serving.engine import Engine

ENGINES = ("openvino", "tensorflow")
DEFAULT_ENGINE = "openvino"
PRECISIONS = ("f32", "bf16", "f16")


def create_engine(
    name: str = DEFAULT_ENGINE,
    *,
    precision: str = "f32",
    threads: int | None = None,
    parallel_requests: int | None = None,
) -> Engine:
    """An engine.

    :param name: one of :data:`ENGINES`.
    :param precision: in which ``openvino`` computes, one of :data:`PRECISIONS`. ``tensorflow`` computes in what the
        graph says: for it, only ``f32``.
    :param threads: CPU threads for one request; all cores if not given.
    :param parallel_requests: how many requests may be in the engine at once; the engine's own choice if not given.
    :raises ConfigurationError: an unknown name or precision, a number below 1, or the engine's package is missing.
    """
    if precision not in PRECISIONS:
        raise ConfigurationError(f"unknown precision {precision!r}", hint=f"Choose one of {', '.join(PRECISIONS)}.")
    for what, number in (("threads", threads), ("parallel_requests", parallel_requests)):
        if number is not None and number < 1:
            raise ConfigurationError(f"{what} must be at least 1, and is {number}")
    try:
        match name:
            case "openvino":
                from sealserve.serving.openvino_engine import OpenVinoEngine

                return OpenVinoEngine(precision=precision, threads=threads, parallel_requests=parallel_requests)
            case "tensorflow":
                if precision != "f32":
                    raise ConfigurationError(
                        f"the engine tensorflow has no precision {precision}",
                        hint="It computes in the types that the graph says. Leave the precision out, or choose the "
                        "engine openvino.",
                    )
                from sealserve.serving.tensorflow.engine import TensorFlowEngine

                return TensorFlowEngine(threads=threads, parallel_requests=parallel_requests)
    except ModuleNotFoundError as error:
        extra = "tensorflow" if name == "tensorflow" else "server"
        raise ConfigurationError(
            f"the engine {name} needs a package that is not installed: {error.name}",
            hint=f"Install it with `pip install '.[{extra}]'`, where sealserve's pyproject.toml is.",
        ) from error
    raise ConfigurationError(f"unknown engine {name!r}", hint=f"Choose one of {', '.join(ENGINES)}.")
