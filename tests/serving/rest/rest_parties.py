"""Callers of a REST server."""

from __future__ import annotations

import socket
import ssl
import time

import urllib3


class Caller:
    """A client of one server."""

    def __init__(self, server, port, scheme="http", **pool):
        self.server, self.port = server, port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.http = urllib3.PoolManager(retries=False, timeout=20, **pool)

    def get(self, path, **kwargs):
        return self.http.request("GET", self.url + path, **kwargs)

    def post(self, path, body, **kwargs):
        return self.http.request("POST", self.url + path, body=body, **kwargs)

    def raw(self, data=b"", *, shut=False):
        """A connection on which ``data`` was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.sendall(data)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        return connection

    def all_of(self, data):
        """What is answered to bytes, until the server ends the connection."""
        with self.raw(data) as connection:
            return read_all(connection)


def read_all(connection):
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def wait_until(condition):
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def client_context(certificate, **pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate.pem.decode())
    context.check_hostname = False
    if pair:
        context.load_cert_chain(**pair)
    return context
