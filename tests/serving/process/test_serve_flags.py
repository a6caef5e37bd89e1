"""Each of TensorFlow Serving's flags is done, noted or refused; none is ignored silently."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from serve_facts import TENSORFLOW_SERVING_FLAGS

from sealserve.cli.serve import serve
from sealserve.errors import ConfigurationError
from sealserve.serving.process.flag_table import FLAGS, GROUPS, OWN
from sealserve.serving.process.flags import examine
from sealserve.serving.process.options import read_options

MODEL = {"model_base_path": "/models/half"}

# Flags with a note, and values that ask for something.
NOTED = {
    "num_unload_threads": 2,
    "flush_filesystem_caches": True,
    "remove_unused_fields_from_bundle_metagraph": False,
    "enable_grpc_healthcheck_service": False,
    "enable_profiler": True,
    "enable_serialization_as_tensor_content": True,
    "per_process_gpu_memory_fraction": 0.5,
    "num_tflite_pools": 4,
    "num_tflite_interpreters_per_pool": 2,
    "skip_initialize_tpu": True,
    "xla_cpu_compilation_enabled": True,
    "xla_gpu_compilation_enabled": True,
}
REFUSED = {
    "enable_signature_method_name_check": True,
    "rest_api_enable_cors_support": True,
    "use_alts_credentials": True,
    "platform_config_file": "x",
    "tensorflow_session_config_file": "x",
    "thread_pool_factory_config_file": "x",
    "prefer_tflite_model": True,
    "saved_model_tags": "serve,gpu",
}


def parsed(monkeypatch, *arguments):
    """What the command hands on."""
    found = {}
    monkeypatch.setattr("sealserve.serving.process.command.serve", found.update)
    done = CliRunner().invoke(serve, list(arguments), standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return found


def test_the_table_has_tensorflow_servings_flags_and_its_own_and_no_others():
    assert set(FLAGS) == set(TENSORFLOW_SERVING_FLAGS) | OWN
    assert not set(TENSORFLOW_SERVING_FLAGS) & OWN
    assert sum(len(group.flags) for group in GROUPS) == len(FLAGS), "a flag is in two groups"


@pytest.mark.parametrize("name", [name for name, value in TENSORFLOW_SERVING_FLAGS.items() if value is not None])
def test_defaults_are_tensorflow_servings(name):
    assert FLAGS[name].default == TENSORFLOW_SERVING_FLAGS[name]
    assert FLAGS[name].kind is type(TENSORFLOW_SERVING_FLAGS[name])


def test_every_flag_with_a_note_or_a_refusal_is_tested_here():
    assert {flag.name for flag in FLAGS.values() if flag.note} == set(NOTED)
    assert {flag.name for flag in FLAGS.values() if flag.refusal} == set(REFUSED)


@pytest.mark.parametrize("name", NOTED)
def test_a_flag_without_a_meaning_is_noted_with_its_reason(name):
    (note,) = read_options({**MODEL, name: NOTED[name]}).notes
    assert note.setting == f"--{name}"
    assert note.text == FLAGS[name].note


@pytest.mark.parametrize("name", REFUSED)
def test_a_flag_that_cannot_be_done_is_refused_with_its_reason_and_what_to_do(name):
    with pytest.raises(ConfigurationError, match=f"--{name}") as caught:
        read_options({**MODEL, name: REFUSED[name]})
    assert FLAGS[name].refusal in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", [flag.name for flag in FLAGS.values() if flag.idle])
def test_a_flag_that_asks_for_what_is_so_anyway_is_quiet(name):
    assert examine(FLAGS, {name: FLAGS[name].idle[0]}) == []


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--enable_batching"], True),
        (["--enable_batching=true"], True),
        (["--enable_batching=false"], False),
        (["--enable-batching"], True),
        (["--enable-batching=True"], True),
        (["--enable_batching", "--port=1"], True),
    ],
)
def test_booleans_are_read_as_tensorflow_serving_writes_them(monkeypatch, arguments, value):
    assert parsed(monkeypatch, *arguments)["enable_batching"] is value


@pytest.mark.parametrize(
    "arguments", [["--rest_api_port=8501"], ["--rest-api-port", "8501"], ["--rest_api_port", "8501"]]
)
def test_flags_take_values_both_ways_with_underscores_or_dashes(monkeypatch, arguments):
    assert parsed(monkeypatch, *arguments) == {"rest_api_port": 8501}


def test_negative_numbers_are_values(monkeypatch):
    assert parsed(monkeypatch, "--file_system_poll_wait_seconds=-1", "--load_retry_interval_micros", "-5") == {
        "file_system_poll_wait_seconds": -1,
        "load_retry_interval_micros": -5,
    }


def test_only_flags_that_were_given_are_handed_on(monkeypatch):
    assert parsed(monkeypatch) == {}
    assert parsed(monkeypatch, "--model_engine=a=tensorflow", "--model_engine=b=openvino") == {
        "model_engine": ("a=tensorflow", "b=openvino")
    }


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--rest_api_prt=1", "--rest_api_port"),
        ("--port=70000", "70000"),
        ("--port=x", "x"),
        ("--enable_batching=perhaps", "perhaps"),
        ("half_plus_two", "half_plus_two"),
    ],
)
def test_what_is_no_flag_or_no_value_is_refused_before_anything_starts(argument, says):
    done = CliRunner().invoke(serve, [argument])
    assert done.exit_code == 2
    assert says in done.output


def test_help_is_grouped_and_fits_80_columns():
    text = CliRunner().invoke(serve, ["--help"], terminal_width=80).output
    assert max(map(len, text.splitlines())) <= 80
    for group in GROUPS:
        assert f"\n{group.title}:\n" in text
    for name in FLAGS:
        assert len(re.findall(rf"^  --{name}\b", text, re.MULTILINE)) == 1


def test_the_documentation_has_every_flag_and_what_becomes_of_it():
    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", text, re.MULTILINE))
    assert rows.keys() >= FLAGS.keys()
    for name, flag in FLAGS.items():
        assert (flag.note or flag.refusal or flag.text) in rows[name]
        assert rows[name].startswith("noted: " if flag.note else "refused: " if flag.refusal else flag.text)
