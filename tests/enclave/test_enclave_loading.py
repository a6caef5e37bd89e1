"""A granted model is run as the grant's arguments say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from replica_parties import MOUNT, write_model

from sealserve.broker.grant import ModelGrant
from sealserve.enclave import loading
from sealserve.enclave.loading import Storage
from sealserve.errors import ConfigurationError
from sealserve.sealing import generate_wrap_key, read_wrap_key, seal_model
from sealserve.secret import Secret
from sealserve.serving.errors import RequestError


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, ModelGrant, Secret]:
    base = tmp_path_factory.mktemp("loading")
    write_model(base / "plain", 3.0, 1)
    generate_wrap_key(base / "wrap.key")
    key = read_wrap_key(base / "wrap.key")
    digest = seal_model(base / "plain", base / "sealed", key, mount=MOUNT).digest
    return Storage(base / "sealed"), ModelGrant("m", 1, digest, MOUNT, "wrap"), key


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(count, dtype=np.float32)}


def test_requests_are_batched_as_the_grant_says(sealed: tuple[Storage, ModelGrant, Secret]) -> None:
    storage, model, key = sealed
    loaded = storage.load(model, key, {"threads": "1", "batching": "max_batch_size { value: 2 }"})
    try:
        assert next(iter(loaded.predict("serving_default", rows(2)).values())).tolist() == [0, 3]
        with pytest.raises(RequestError, match="Task size 3 is larger than maximum"):
            loaded.predict("serving_default", rows(3))
    finally:
        loaded.close()


def test_without_it_a_request_may_have_any_number_of_rows(sealed: tuple[Storage, ModelGrant, Secret]) -> None:
    storage, model, key = sealed
    loaded = storage.load(model, key, {"threads": "1"})
    try:
        assert next(iter(loaded.predict("serving_default", rows(2000)).values())).shape == (2000,)
    finally:
        loaded.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("batching", "max_batch_size { value: 0 }"), ("batching", "max_batch"), ("threads", "two"), ("engine", "jax")],
)
def test_an_argument_that_cannot_be_is_named(sealed: tuple[Storage, ModelGrant, Secret], name: str, value: str) -> None:
    storage, model, key = sealed
    with pytest.raises(ConfigurationError) as refused:
        storage.load(model, key, {name: value})
    assert name in refused.value.message or value in refused.value.message


def test_more_threads_than_the_manifest_has_room_for_are_refused(sealed: tuple[Storage, ModelGrant, Secret]) -> None:
    storage, model, key = sealed
    narrow = replace(storage, most_threads=2)
    with pytest.raises(ConfigurationError, match="threads is 3, and this replica was made for at most 2"):
        narrow.load(model, key, {"threads": "3"})
    narrow.load(model, key, {"threads": "2"}).close()


@pytest.mark.parametrize(("processors", "used"), [(64, 2), (1, 1)])
def test_a_grant_without_threads_takes_no_more_than_there_is_room_for(
    sealed: tuple[Storage, ModelGrant, Secret], monkeypatch: pytest.MonkeyPatch, processors: int, used: int
) -> None:
    storage, model, key = sealed
    given = []
    create = loading.create_engine
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    monkeypatch.setattr(
        loading, "create_engine", lambda name, **options: given.append(options["threads"]) or create(name, **options)
    )
    replace(storage, most_threads=2).load(model, key, {}).close()
    assert given == [used]
