"""Sources and models without files, which do what a test says."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np

from sealserve.errors import InputError, ModelError
from sealserve.serving.core import ModelChoice, ModelServer
from sealserve.serving.versions import Latest, ServedModelConfig, VersionManager

PATIENCE = 20.0  # seconds: what takes as long, does not happen


def until(condition):
    """Wait for what another thread does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


class FakeSource:
    """Versions by number; two are equal if their place is."""

    def __init__(self, *versions, place="here"):
        self.present = set(versions)
        self.place = place
        self.unreadable = False

    def __eq__(self, other):
        return isinstance(other, FakeSource) and self.place == other.place

    __hash__ = None

    def versions(self):
        if self.unreadable:
            raise InputError("cannot read the directory")
        return sorted(self.present)

    @contextlib.contextmanager
    def open(self, version):
        if version not in self.present:
            raise ModelError(f"there is no version {version}")
        yield {"place": self.place}


class FakeModel:
    """Answers with its version. A request whose input is an event waits for it."""

    platform = "fake"
    signatures = {}  # noqa: RUF012
    signature_definitions = {}  # noqa: RUF012

    def __init__(self, version, place):
        self.version, self.place = version, place
        self.closed = 0
        self.asked = threading.Event()

    def predict(self, signature, inputs, output_filter=(), *, wanted=None):
        assert not self.closed, "a closed model was asked"
        if gate := inputs.get("gate"):
            self.asked.set()
            assert gate.wait(PATIENCE)
            assert not self.closed, "a model was closed while it was asked"
        return {"version": np.array(self.version)}

    def close(self):
        self.closed += 1


class Loader:
    """The manager's ``load``: versions in ``gates`` wait for their event; in ``broken`` fail as often as it says."""

    def __init__(self):
        self.gates = {}
        self.broken = {}
        self.models = []
        self.begun = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.attempts = []
        self.most_in_memory = 0

    def __call__(self, config, version, files):
        with self._lock:
            self.attempts.append(version)
            in_memory = 1 + sum(not model.closed for model in self.models)
            self.most_in_memory = max(self.most_in_memory, in_memory)
        self.begun.release()
        if version in self.gates:
            assert self.gates[version].wait(PATIENCE)
        if self.broken.get(version, 0) > 0:
            self.broken[version] -= 1
            raise ModelError(f"version {version} is broken")
        model = FakeModel(version, files["place"])
        with self._lock:
            self.models.append(model)
        return model

    def model(self, version):
        """The newest of that number."""
        return [model for model in self.models if model.version == version][-1]

    def gate(self, version):
        self.gates[version] = threading.Event()
        return self.gates[version]

    def wait_for_load(self):
        assert self.begun.acquire(timeout=PATIENCE)


class Stage:
    """A data plane, a manager that polls when it is told to, and a model called ``m``."""

    def __init__(self, *versions, **settings):
        self.core = ModelServer()
        self.load = Loader()
        self.source = FakeSource(*versions)
        defaults = {"poll_seconds": -1, "load_retries": 0, "retry_seconds": 0, "load_threads": 2}
        self.manager = VersionManager(self.core, self.load, **{**defaults, **settings})

    def config(self, policy=None, name="m", source=None, **fields):
        return ServedModelConfig(name, source or self.source, policy or Latest(), **fields)

    def start(self, policy=None, *, wait=True, **fields):
        self.manager.start([self.config(policy, **fields)], wait=wait)
        return self

    def find(self, *versions):
        """These versions, and no others, are there from now on."""
        self.source.present = set(versions)
        self.manager.poll()

    def settle(self):
        assert self.manager.wait_until_settled(PATIENCE)

    def ask(self, name="m", **choice):
        return self.core.predict(ModelChoice(name, **choice), {}).version

    def states(self, name="m"):
        return {status.version: status.state.name for status in self.core.status(ModelChoice(name))}

    def served(self, name="m"):
        return sorted(self.core.models.get(name, {}))
