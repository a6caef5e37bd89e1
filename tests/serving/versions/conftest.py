from __future__ import annotations

import pytest
from versions_fakes import Stage


@pytest.fixture
def stage():
    """Makes stages, and stops their managers in the end."""
    made = []

    def make(*versions, **settings):
        made.append(Stage(*versions, **settings))
        return made[-1]

    yield make
    for one in made:
        for gate in one.load.gates.values():
            gate.set()
        one.manager.stop()
