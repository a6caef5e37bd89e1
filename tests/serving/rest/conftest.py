"""REST servers in front of models that are written here."""

from __future__ import annotations

import pytest
from rest_models import EchoModel
from rest_parties import Caller

from sealserve.serving.core import ModelServer
from sealserve.serving.rest.limits import RestLimits
from sealserve.serving.rest.server import create_rest_server


@pytest.fixture
def rest():
    """Starts servers, and stops them in the end."""
    started = []

    def start(core, *, tls=None, pool=None, scheme="http", **settings):
        limits = settings.pop("limits", RestLimits(threads=2, waiting=8))
        server, port = create_rest_server(core, address="127.0.0.1:0", tls=tls, limits=limits, **settings)
        server.start()
        caller = Caller(server, port, scheme, **(pool or {}))
        started.append(caller)
        return caller

    yield start
    for caller in started:
        caller.http.clear()
        caller.server.stop(0)


@pytest.fixture
def echo():
    return EchoModel()


@pytest.fixture
def served(rest, echo):
    """A server of a model that answers with what it is given, and counts its requests."""
    core = ModelServer()
    core.add_model("echo", 1, echo)
    return rest(core)
