from __future__ import annotations

import pytest

from sealserve.errors import MachineError
from sealserve.gateway import Nginx, find_nginx


@pytest.fixture(scope="session")
def nginx() -> Nginx:
    try:
        return find_nginx()
    except MachineError as error:
        pytest.skip(str(error))
