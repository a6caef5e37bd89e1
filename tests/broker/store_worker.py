"""A process that changes a store as fast as it can and says what was acknowledged, until it is killed."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

from sealserve.broker.administration import BrokerAdministration
from sealserve.broker.store import MasterKeyPlace, Store
from sealserve.errors import MachineError


def change_for_ever(location: str, master: Path, name: str, tell: Connection) -> None:
    with Store(location, MasterKeyPlace(master)) as store:
        administration = BrokerAdministration(store, actor=name)
        number = 0
        while True:
            number += 1
            try:
                if number % 3 == 0:
                    tell.send(["key", name, str(administration.rotate_key(name).version)])
                else:
                    decisions = [{"event": "decision", "decision": f"{name}-{number}-{n}"} for n in range(3)]
                    for _, head in store.append_audit(decisions):
                        tell.send(["record", head])
            except MachineError:
                tell.send(["refused"])
