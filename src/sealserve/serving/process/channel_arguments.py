"""``--grpc_channel_arguments``: settings of gRPC, as far as the server's bounds stay.

Names: ``include/grpc/impl/channel_arg_names.h``. gRPC itself says nothing about a name that it does not know; here that
is an error.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any

from sealserve.errors import ConfigurationError, InputError
from sealserve.serving.limits import Limits

_LARGEST = (1 << 31) - 1

# Bounds of the server: name → (field of Limits, how many of gRPC's units make one of the field's).
_BOUNDS = {
    "grpc.max_connection_age_ms": ("connection_seconds", 1000),
    "grpc.max_connection_age_grace_ms": ("connection_grace_seconds", 1000),
    "grpc.max_connection_idle_ms": ("idle_seconds", 1000),
    "grpc.server_handshake_timeout_ms": ("handshake_seconds", 1000),
    "grpc.max_concurrent_streams": ("streams", 1),
    "grpc.max_allowed_incoming_connections": ("connections", 1),
    "grpc.max_metadata_size": ("header_bytes", 1),
    "grpc.absolute_max_metadata_size": ("header_bytes", 1),
    "grpc.max_receive_message_length": ("message_bytes", 1),
    "grpc.max_send_message_length": ("message_bytes", 1),
}

# Handed to gRPC as they are: name → the lowest and the highest value.
_PASSED = {
    "grpc.keepalive_time_ms": (1000, _LARGEST),
    "grpc.keepalive_timeout_ms": (1, _LARGEST),
    "grpc.keepalive_permit_without_calls": (0, 1),
    "grpc.http2.min_ping_interval_without_data_ms": (0, _LARGEST),
    "grpc.http2.max_ping_strikes": (1, 1000),
    "grpc.http2.max_pings_without_data": (0, 1000),
    "grpc.http2.bdp_probe": (0, 1),
    "grpc.http2.lookahead_bytes": (1, 64 << 20),
    "grpc.http2.max_frame_size": (16_384, 16_777_215),
    "grpc.http2.write_buffer_size": (1, 64 << 20),
    "grpc.so_reuseport": (0, 1),
    "grpc.tcp_user_timeout": (0, _LARGEST),
}

_COMPRESSION = re.compile(r"grpc\.(default_)?compression.*")


def apply_channel_arguments(limits: Limits, text: str) -> Limits:
    """``limits`` with the settings in ``text``: ``name=number``, with commas between them; the last of a name counts.

    :raises ConfigurationError: a setting is unknown, or its number would take a bound away.
    """
    fields: dict[str, Any] = {}
    passed: dict[str, int] = {}
    for argument in filter(None, (part.strip() for part in text.split(","))):
        name, number = _read(argument)
        if name in _BOUNDS:
            field, units = _BOUNDS[name]
            fields[field] = _bound(name, field, number) if units == 1 else number / units
        else:
            least, most = _PASSED[name]
            if not least <= number <= most:
                raise ConfigurationError(f"{name} must be from {least} to {most}, and is {number}", hint=_HINT)
            passed[name] = number
    if "message_bytes" in fields:
        fields["buffered_bytes"] = max(limits.buffered_bytes, fields["message_bytes"])
    try:
        return dataclasses.replace(limits, **fields, arguments=passed)
    except InputError as error:
        raise ConfigurationError(f"--grpc_channel_arguments: {error.message}", hint=_HINT) from error


_HINT = "docs/serving-limits.md has what the server bounds. Leave the setting out for the server's own value."


def _read(argument: str) -> tuple[str, int]:
    name, separator, value = argument.partition("=")
    name = name.strip()
    if _COMPRESSION.fullmatch(name):
        raise ConfigurationError(
            f"{name} cannot be set: a compressed request is refused before it can become a large one",
            hint="Clients of TensorFlow Serving do not compress unless they are told to.",
        )
    if name not in _BOUNDS and name not in _PASSED:
        known = sorted((*_BOUNDS, *_PASSED))
        like = difflib.get_close_matches(name, known, n=1)
        raise ConfigurationError(
            f"--grpc_channel_arguments: {name!r} is no setting that this server takes",
            hint=f"Did you mean {like[0]}?" if like else f"It takes: {', '.join(known)}.",
        )
    if not separator or not re.fullmatch(r"-?[0-9]{1,10}", value.strip()) or int(value) > _LARGEST:
        raise ConfigurationError(f"--grpc_channel_arguments: {name} needs a whole number: {name}=1000")
    return name, int(value)


def _bound(name: str, field: str, number: int) -> int:
    if number == -1 and field == "message_bytes":
        return _LARGEST  # gRPC's word for no limit; a message of gRPC has no more
    if number < 1:
        raise ConfigurationError(f"{name} is a bound of the server: it must be above 0, and is {number}", hint=_HINT)
    return number
