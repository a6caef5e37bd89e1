"""Which local user holds the other end of a loopback connection.

Any user of a machine may connect to a loopback port. The kernel knows whose socket it is, and tells by sock_diag(7),
for one connection, without going through the table of all of them as ``/proc/net/tcp`` does.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from urllib.parse import unquote

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_ALL_STATES, _NO_COOKIE, _ESTABLISHED = 0xFFFFFFFF, 0xFFFFFFFF, 1
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states
_ENDS = struct.Struct(">HH16s16s")  # source port, destination port, their addresses
_REST = struct.Struct("=III")  # interface, cookie
_REPLY = struct.Struct("=BBBB48sIIIII")  # family, state, timer, retransmits, ends, three counters, user id, inode


def user_of(peer: str, server: tuple[str, int]) -> int | None:
    """The user id behind a connection; None if it is over, or cannot be told.

    :param peer: as gRPC writes it: ``ipv4:127.0.0.1:40000``, ``ipv6:[::1]:40000``.
    :param server: IP address and port that it is connected to, on this machine.
    """
    family, _, rest = unquote(peer).partition(":")
    host, _, digits = rest.rpartition(":")
    if (
        family not in {"ipv4", "ipv6"}
        or not (digits.isascii() and digits.isdigit())
        or not hasattr(socket, "AF_NETLINK")
    ):
        return None
    try:
        ends = _ENDS.pack(int(digits), server[1], _packed(host.strip("[]")), _packed(server[0]))
    except (ValueError, struct.error):
        return None
    number = socket.AF_INET if family == "ipv4" else socket.AF_INET6
    request = _REQUEST.pack(number, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + ends + _REST.pack(0, *(_NO_COOKIE,) * 2)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(1)
            kernel.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + request)
            reply = kernel.recv(4096)
    except OSError:
        return None
    if len(reply) < _HEADER.size + _REPLY.size or _HEADER.unpack_from(reply)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    kind, state, _, _, found, _, _, _, user, inode = _REPLY.unpack_from(reply, _HEADER.size)
    # A socket that its program has closed belongs to nobody, and then the kernel says 0, which is root.
    if state != _ESTABLISHED or not inode or _plain(kind, found[: _ENDS.size]) != ends:
        return None
    return int(user)


def _packed(host: str) -> bytes:
    return ipaddress.ip_address(host).packed.ljust(16, b"\0")


def _plain(family: int, found: bytes) -> bytes:
    """The ends of a connection; an IPv6 socket may be connected to an IPv4 address (RFC 4291, section 2.5.5.2)."""
    source, destination, *addresses = _ENDS.unpack(found)
    if family == socket.AF_INET6:
        mapped = [ipaddress.IPv6Address(address).ipv4_mapped for address in addresses]
        addresses = [m.packed.ljust(16, b"\0") if m else a for m, a in zip(mapped, addresses, strict=True)]
    return _ENDS.pack(source, destination, *addresses)
