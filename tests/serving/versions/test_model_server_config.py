"""Lists of models as TensorFlow Serving's users write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.errors import ConfigurationError
from sealserve.serving.versions import All, Latest, Specific, read_model_server_config, served_models

# As in TensorFlow Serving's own documentation (serving_config.md).
DOCUMENTED = """
model_config_list {
  config {
    name: 'my_first_model'
    base_path: '/tmp/my_first_model/'
    model_platform: 'tensorflow'
  }
  config {
    name: 'my_second_model'
    base_path: '/tmp/my_second_model/'
    model_platform: 'tensorflow'
    # a comment
    model_version_policy { specific { versions: 42 versions: 43 } }
    version_labels { key: 'stable' value: 43 }
    version_labels { key: 'canary' value: 43 }
  }
  config: { name: "third", base_path: "/m", model_platform: "openvino", model_version_policy: { all: {} } },
  config { name: "fourth" base_path: "/n" model_type: TENSORFLOW model_version_policy { latest { num_versions: 3 } } }
}
"""


def test_the_documented_forms_are_read():
    config = read_model_server_config(DOCUMENTED)
    models = served_models(config, source=lambda path: path, engine={"third": "tensorflow"}.get)
    assert [(m.name, m.source, m.policy) for m in models] == [
        ("my_first_model", "/tmp/my_first_model/", Latest(1)),
        ("my_second_model", "/tmp/my_second_model/", Specific(frozenset({42, 43}))),
        ("third", "/m", All()),
        ("fourth", "/n", Latest(3)),
    ]
    assert models[1].labels == {"stable": 43, "canary": 43}
    assert models[2].engine == "tensorflow"


def test_an_empty_file_lists_no_models():
    assert read_model_server_config("# nothing yet\n").WhichOneof("config") is None


def model(**fields):
    defaults = {"name": '"m"', "base_path": '"/m"', "model_platform": '"tensorflow"'}
    lines = [f"{name}: {value}" for name, value in {**defaults, **fields}.items() if value is not None]
    return "config {\n" + "\n".join(lines) + "\n}\n"


def listed(*models):
    return "model_config_list {\n" + "".join(models) + "}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (listed(model(), "config { nam: 'x' }"), 'line 7, column 10: .*has no field named "nam"'),
        (listed(model(model_version_policy="LATEST")), "line 6, .*model_version_policy: LATEST"),
        ("model_config_list {", "line 1, "),
        (listed(model(name=None)), r"config\[0\] has no name"),
        (listed(model(), model()), "^Illegal to list model m multiple times in config list$"),
        (
            listed(model(base_path='"models/m"')),
            r"^Expected model m to have an absolute path or URI; got base_path\(\)=models/m$",
        ),
        (listed(model(base_path=None)), r"got base_path\(\)=$"),
        (listed(model(base_path='"gs://bucket/m"')), "gs://bucket/m is a URI"),
        (listed(model(base_path=r'"/m\000"')), "zero byte"),
        (listed(model(model_platform='"caffe"')), "^Model m requests unsupported platform caffe$"),
        (listed(model(model_platform=None)), "^Illegal setting neither .*, model name is m$"),
        (listed(model(model_type="TENSORFLOW")), "^Illegal setting both .*, model name is m$"),
        (listed(model(model_platform=None, model_type="OTHER")), "model_type choice 2 not supported"),
        (listed(model(model_version_policy="{ specific {} }")), "`specific` has no versions"),
        (listed(model(model_version_policy="{ specific { versions: -1 } }")), "-1 is not the number of a version"),
        (listed(model(version_labels='{ key: "a" value: -7 }')), "-7 is not the number of a version"),
        ("custom_model_config { type_url: 'x' }", "custom_model_config is not supported"),
        ("custom_model_config { [type.googleapis.com/x.Y] { a: 1 } }", "custom_model_config is not supported"),
        ("custom_model_config { " * 2000, "custom_model_config is not supported|nested"),
        ("\0\0\0", "line 1"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_place(text, says):
    with pytest.raises(ConfigurationError, match=says):
        read_model_server_config(text)


@given(st.text(max_size=200) | st.text(alphabet="modelcnfigst_{}:'\"[]0 \n", max_size=200))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigurationError):
        read_model_server_config(text)
