from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_deployments import deployment

from sealserve.deploy.images.rendering import plan_for, render
from sealserve.deploy.images.sizing import model_bytes, plan_enclave
from sealserve.errors import ConfigurationError, InputError, ModelError

MIB, GIB = 1 << 20, 1 << 30
ENGINES = st.sampled_from(["openvino", "tensorflow", "tensorflow-serving"])


@given(engine=ENGINES, model=st.integers(0, 64 * GIB), threads=st.integers(1, 256) | st.just("auto"))
def test_an_enclave_holds_what_it_needs_and_is_a_power_of_two(engine: str, model: int, threads: int | str) -> None:
    plan = plan_enclave(deployment(model={"engine": engine}, replicas={"threads": threads}), model_size=model)
    assert plan.size & (plan.size - 1) == 0
    assert model < plan.needed <= plan.size < 2 * plan.needed
    assert plan.max_threads > plan.computing


@given(engine=ENGINES, model=st.integers(0, 64 * GIB), more=st.integers(0, GIB))
def test_a_larger_model_never_gets_a_smaller_enclave(engine: str, model: int, more: int) -> None:
    given = deployment(model={"engine": engine})
    assert plan_enclave(given, model_size=model).size <= plan_enclave(given, model_size=model + more).size


def test_sizes_that_are_given_are_kept() -> None:
    plan = plan_enclave(deployment(image={"enclave_size": "16G", "max_threads": 300}), model_size=MIB)
    assert (plan.size, plan.size_text, plan.max_threads) == (16 * GIB, "16G", 300)
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("sections", "size", "message", "hint"),
    [
        ({"image": {"enclave_size": "512M"}}, MIB, "enclave_size: 512M cannot hold openvino", "set it to 4G"),
        ({"image": {"enclave_size": "2G"}}, GIB, "enclave_size: 2G cannot hold", "set it to 8G"),
        ({"image": {"max_threads": 40}}, MIB, "max_threads: 40 threads are too few for 16", "Set it to 136 or more"),
        (
            {"image": {"max_threads": 184}, "replicas": {"threads": 80}},
            MIB,
            "184 threads are too few for 80 that compute",
            "lower replicas.threads",
        ),
    ],
)
def test_a_size_that_cannot_be_is_refused(sections: dict[str, Any], size: int, message: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        plan_enclave(deployment(**sections), model_size=size)
    assert hint in (caught.value.hint or "")


def test_a_model_that_no_enclave_holds_is_refused() -> None:
    with pytest.raises(InputError, match="no enclave is large enough"):
        plan_enclave(deployment(), model_size=400 * GIB)


def test_a_model_too_large_for_the_protected_memory_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"a replica needs about 12\.\d GiB, and the machine has 8\.0 GiB") as caught:
        plan_for(deployment(), model_size=2 * GIB, epc="8G")
    assert "more EPC" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("sections", "size", "epc", "warning"),
    [
        ({}, 100 * MIB, "64G", None),
        ({}, 900 * MIB, "7G", "the enclave of 8G is larger than the 7.0 GiB"),
        ({"replicas": {"count": 3}}, 100 * MIB, "8G", "3 replicas need about 8.8 GiB"),
        ({"image": {"enclave_size": "2G"}}, 100 * MIB, None, "enclave_size: 2G may be too little"),
    ],
)
def test_a_size_that_will_hurt_is_warned_of(
    sections: dict[str, Any], size: int, epc: str | None, warning: str | None
) -> None:
    plan = plan_for(deployment(**sections), model_size=size, epc=epc)
    assert [text for text in plan.warnings if warning and warning in text] == list(plan.warnings)
    assert bool(plan.warnings) == (warning is not None)


@pytest.mark.parametrize("epc", ["64", "64GB", "-1G", "", "lots"])
def test_protected_memory_that_is_no_size_is_refused(epc: str) -> None:
    with pytest.raises(InputError, match="is no size"):
        plan_for(deployment(), model_size=MIB, epc=epc)


def test_the_largest_version_counts(tmp_path: Path) -> None:
    for version, size in (("1", 100), ("2", 5000), ("10", 70)):
        directory = tmp_path / version / "variables"
        directory.mkdir(parents=True)
        (directory / "variables.data").write_bytes(bytes(size))
        (tmp_path / version / "saved_model.pb").write_bytes(bytes(10))
    assert model_bytes(tmp_path) == 5010


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        model_bytes(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("cloud", "size", "warning"),
    [
        ("azure-dcsv3", "4G", None),
        ("azure-dcsv3", "8G", r"larger than the protected memory \(EPC\) of Standard_DC1s_v3 \(4 GiB\): take a larger"),
        ("azure-dcsv3", "512G", r"of every machine of Microsoft Azure DCsv3 .*Standard_DC48s_v3 \(256 GiB\)\. What"),
        ("bare-metal", "512G", None),
    ],
)
def test_machines_of_the_cloud_that_are_too_small_are_named(cloud: str, size: str, warning: str | None) -> None:
    deployed = deployment(cloud=cloud, image={"enclave_size": size, "brokers": ["broker.example:4433"]})
    _, warnings = render(deployed, model_size=1000)
    assert bool(warnings) == (warning is not None)
    assert warning is None or re.search(warning, warnings[0])
    # Who says what the machine has is not told what others have.
    assert not any("every machine" in text for text in render(deployed, model_size=1000, epc="1T")[1])
