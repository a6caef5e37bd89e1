"""What the flags and the small files say together; everything is read and checked before anything is started."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealserve.addresses import Address, is_dns_name, parse_address
from sealserve.errors import ConfigurationError
from sealserve.serving.engines import DEFAULT_ENGINE, ENGINES, PRECISIONS
from sealserve.serving.limits import Limits
from sealserve.serving.process.channel_arguments import apply_channel_arguments
from sealserve.serving.process.flag_table import FLAGS
from sealserve.serving.process.flags import Note, Value, examine
from sealserve.serving.process.text_files import parse_text, read_text
from sealserve.serving.process.tls_file import read_tls_file
from sealserve.serving.tls import ServerTls
from sealserve.wire.tensorflow_serving_config_pb2 import MonitoringConfig

METRICS_PATH = "/monitoring/prometheus/metrics"
_HERE = "127.0.0.1"
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - where TensorFlow Serving listens; with TLS, or when somebody says so


@dataclass(frozen=True)
class EngineOptions:
    """Which engine runs a model, and how.

    :ivar by_model: engines of models that have one of their own.
    :ivar threads: CPU threads for one request; None for all cores.
    :ivar parallel_requests: requests in an engine at once; None for its own choice.
    """

    default: str
    by_model: Mapping[str, str]
    precision: str
    threads: int | None
    parallel_requests: int | None

    def of(self, model: str) -> str:
        """The name of a model's engine."""
        return self.by_model.get(model, self.default)


@dataclass(frozen=True)
class ServeOptions:
    """A server to be.

    :ivar addresses: where to listen for gRPC: ``host:port`` and ``unix:path``.
    :ivar rest_address: ``host:port``; None for no REST.
    :ivar tls: for all of them; None for plaintext.
    :ivar reload_requests: whether callers may say which models are served.
    :ivar metrics_path: None for no metrics.
    :ivar values: the flags by name, with their defaults, for whoever has one of them to itself.
    """

    addresses: tuple[str, ...]
    rest_address: str | None
    tls: ServerTls | None
    limits: Limits
    engines: EngineOptions
    reload_requests: bool
    metrics_path: str | None
    notes: tuple[Note, ...]
    values: Mapping[str, Any]


def read_options(given: Mapping[str, Value | tuple[str, ...]]) -> ServeOptions:
    """Read the flags that were given, and the files that they name, but for the models' and batching's.

    :raises ConfigurationError: they do not fit together, or one cannot be done here.
    """
    notes = examine(FLAGS, {name: value for name, value in given.items() if not isinstance(value, tuple)})
    values: dict[str, Any] = {name: given.get(name, flag.default) for name, flag in FLAGS.items()}
    _check_models(values, given)
    tls = read_tls_file(Path(values["ssl_config_file"])) if values["ssl_config_file"] else None
    addresses, rest = _addresses(values, tls)
    limits = Limits(working=values["grpc_max_threads"]) if "grpc_max_threads" in given else Limits()
    path = _metrics_path(values)
    if path and rest is None:
        notes.append(Note("--monitoring_config_file", "metrics are told at the REST port, and there is none"))
    return ServeOptions(
        addresses=addresses,
        rest_address=rest,
        tls=tls,
        limits=apply_channel_arguments(limits, values["grpc_channel_arguments"]),
        engines=_engines(values, given),
        reload_requests=_may_reload(values, addresses, tls),
        metrics_path=path,
        notes=tuple(notes),
        values=values,
    )


def _check_models(values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if values["model_config_file"] and values["model_base_path"]:
        raise ConfigurationError(
            "both --model_config_file and --model_base_path are given",
            hint="TensorFlow Serving would ignore the second. Name each model in the file, or give one directory.",
        )
    if not values["model_config_file"] and not values["model_base_path"]:
        raise ConfigurationError("there is no model to serve", hint="Give --model_base_path or --model_config_file.")
    if values["model_config_file"] and "model_name" in given:
        raise ConfigurationError(
            "--model_name is for the model of --model_base_path", hint="In a --model_config_file, models have names."
        )
    if values["model_config_file_poll_wait_seconds"] and not values["model_config_file"]:
        raise ConfigurationError(
            "--model_config_file_poll_wait_seconds is given, and no --model_config_file", hint="Leave it out."
        )
    if not values["model_name"]:
        raise ConfigurationError("--model_name is empty", hint="Leave it out, and the model's name is `default`.")
    if not values["enable_batching"]:
        for name in ("batching_parameters_file", "enable_per_model_batching_parameters"):
            if values[name]:
                raise ConfigurationError(f"--{name} is given, and --enable_batching is not", hint="Give both.")


def _addresses(values: Mapping[str, Any], tls: ServerTls | None) -> tuple[tuple[str, ...], str | None]:
    port, rest_port, socket = values["port"], values["rest_api_port"], values["grpc_socket_path"]
    if not port and not socket:
        raise ConfigurationError("there is nowhere to listen for gRPC", hint="Give --port or --grpc_socket_path.")
    if port and port == rest_port:
        raise ConfigurationError(
            f"--rest_api_port is {rest_port}, and so is --port", hint="TensorFlow Serving's usual ports: 8500 and 8501."
        )
    open_to_others = tls is not None or values["insecure_plaintext"]
    host = values["host"] or (_EVERYWHERE if open_to_others else _HERE)
    if not open_to_others and not _is_loopback(host):
        raise ConfigurationError(
            f"requests to {host} would go over the network in plaintext",
            hint="Give --ssl_config_file for TLS; --insecure_plaintext if something else protects the network.",
        )
    addresses = [str(Address(host, port))] if port else []
    if socket:
        addresses.append(f"unix:{socket}")
    return tuple(addresses), str(Address(host, rest_port)) if rest_port else None


def _may_reload(values: Mapping[str, Any], addresses: tuple[str, ...], tls: ServerTls | None) -> bool:
    """Whoever may name directories to serve may read what the server may: not for strangers."""
    if values["allow_reload_requests"] or (tls is not None and tls.client_ca_pem is not None):
        return True
    hosts = [parse_address(address).host for address in addresses if not address.startswith("unix:")]
    return all(_is_loopback(host) for host in hosts)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    if not is_dns_name(host):
        raise ConfigurationError(f"--host: {host!r} is neither an IP address nor a name", hint="--host=127.0.0.1")
    return host.lower() == "localhost"


def _engines(values: Mapping[str, Any], given: Mapping[str, Any]) -> EngineOptions:
    by_model: dict[str, str] = {}
    for text in values["model_engine"] or ():
        model, separator, engine = text.rpartition("=")
        if not separator or not model or model in by_model:
            raise ConfigurationError(
                f"--model_engine: {text!r} names no model, or one that has an engine already",
                hint="Write the model's name, and its engine: --model_engine=half_plus_two=tensorflow",
            )
        by_model[model] = engine
    for engine in (values["engine"], *by_model.values()):
        if engine not in ENGINES:
            raise ConfigurationError(f"there is no engine {engine!r}", hint=f"The engines are {' and '.join(ENGINES)}.")
    return EngineOptions(
        default=values["engine"] or DEFAULT_ENGINE,
        by_model=by_model,
        precision=_precision(values, given),
        threads=_threads(values),
        parallel_requests=values["tensorflow_inter_op_parallelism"] or None,
    )


def _precision(values: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    precision: str = values["precision"]
    if precision not in PRECISIONS:
        raise ConfigurationError(f"--precision: there is no {precision!r}", hint=f"Choose of {', '.join(PRECISIONS)}.")
    mode = values["mixed_precision"]
    if mode not in {"", "bfloat16"}:
        raise ConfigurationError(f"--mixed_precision: there is no {mode!r}", hint="The one mode is bfloat16.")
    if mode and given.get("precision", "bf16") != "bf16":
        raise ConfigurationError(f"--mixed_precision={mode} and --precision={precision} do not agree")
    return "bf16" if mode else precision


def _threads(values: Mapping[str, Any]) -> int | None:
    session, intra, inter = (values[f"tensorflow_{name}_parallelism"] for name in ("session", "intra_op", "inter_op"))
    if session and (intra or inter):
        raise ConfigurationError(
            "--tensorflow_session_parallelism is given, and --tensorflow_intra_op_parallelism or "
            "--tensorflow_inter_op_parallelism too",
            hint="Give the first, or one or both of the others.",
        )
    return session or intra or None


def _metrics_path(values: Mapping[str, Any]) -> str | None:
    flag = "monitoring_config_file"
    if not values[flag]:
        return None
    path = Path(values[flag])
    config = parse_text(read_text(path, flag), MonitoringConfig, path=path, flag=flag).prometheus_config
    if not config.enable:
        return None
    found = config.path or METRICS_PATH
    if not found.startswith("/") or found.startswith("/v"):
        raise ConfigurationError(
            f"--{flag}: {found!r} cannot be the path of the metrics", hint=f"The usual one is {METRICS_PATH}."
        )
    return found


def default_rest_threads() -> int:
    """TensorFlow Serving's number of threads for REST: four for each CPU that the process may use."""
    return 4 * len(os.sched_getaffinity(0))
