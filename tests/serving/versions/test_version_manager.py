"""Versions come and go, fail and vanish; with models that only say who they are."""

from __future__ import annotations

import json
import logging
import threading

import pytest
from versions_fakes import PATIENCE, FakeSource, until

from sealserve.logs import JsonFormatter
from sealserve.serving.core import ModelChoice
from sealserve.serving.errors import (
    LabelError,
    ModelsUnavailableError,
    RequestError,
    ServableNotFoundError,
)
from sealserve.serving.versions import All, Latest, Specific


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        (Latest(), [9]),
        (Latest(2), [3, 9]),
        (Latest(0), [9]),
        (Latest(7), [1, 3, 9]),
        (All(), [1, 3, 9]),
        (Specific(frozenset({1, 3, 4})), [1, 3]),
    ],
)
def test_the_policy_says_which_versions_are_served(stage, policy, served):
    one = stage(1, 3, 9).start(policy)
    assert one.served() == served
    assert one.states() == dict.fromkeys(served, "AVAILABLE")


def test_a_new_version_is_loaded_before_the_old_one_goes(stage):
    one = stage(1).start()
    gate = one.load.gate(2)
    one.find(1, 2)
    one.load.wait_for_load()  # version 1's
    one.load.wait_for_load()
    assert one.ask() == 1
    assert one.states() == {2: "LOADING", 1: "AVAILABLE"}
    gate.set()
    one.settle()
    assert one.ask() == 2
    assert one.states() == {2: "AVAILABLE", 1: "END"}
    assert one.load.model(1).closed == 1


def test_a_version_is_closed_when_its_last_request_is_done_and_not_before(stage):
    one = stage(1).start()
    gate, answers = threading.Event(), []

    def ask():
        answers.append(one.core.predict(ModelChoice("m"), {"gate": gate}).version)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    model = one.load.model(1)
    assert model.asked.wait(PATIENCE)
    until(lambda: one.core._models["m"][1]._requests == 3)
    one.find(2)
    until(lambda: one.served() == [2])
    assert one.ask() == 2
    with pytest.raises(ServableNotFoundError):
        one.ask(version=1)
    assert one.states() == {2: "AVAILABLE", 1: "UNLOADING"}
    assert not model.closed
    gate.set()
    for asker in askers:
        asker.join(PATIENCE)
    one.settle()
    assert answers == [1, 1, 1]
    assert model.closed == 1
    assert one.states() == {2: "AVAILABLE", 1: "END"}


def test_one_version_more_than_wanted_is_in_memory_at_most(stage):
    one = stage(1, 2, load_threads=8).start(Latest(2))
    for highest in range(3, 12):
        one.find(*range(1, highest + 1))
        one.settle()
        assert one.served() == [highest - 1, highest]
    one.find(20, 21)
    one.settle()
    assert one.served() == [20, 21]
    assert one.load.most_in_memory == 3


def test_a_version_that_still_answers_counts_as_memory(stage):
    one = stage(1).start()
    gate = threading.Event()
    asker = threading.Thread(target=one.core.predict, args=(ModelChoice("m"), {"gate": gate}))
    asker.start()
    assert one.load.model(1).asked.wait(PATIENCE)
    one.find(2)
    until(lambda: one.served() == [2])
    one.find(3)
    assert one.states() == {3: "START", 2: "AVAILABLE", 1: "UNLOADING"}
    gate.set()
    asker.join(PATIENCE)
    one.settle()
    assert one.served() == [3]
    assert one.load.most_in_memory == 2


def test_a_version_that_fails_leaves_the_one_before_and_says_why(stage):
    one = stage(1).start()
    one.load.broken[2] = 99
    one.find(1, 2)
    one.settle()
    assert one.ask() == 1
    failed, serving = one.core.status(ModelChoice("m"))
    assert (failed.version, failed.state.name, failed.error_code) == (2, "END", "FAILED_PRECONDITION")
    assert failed.error_message == "version 2 is broken"
    assert (serving.version, serving.state.name, serving.error_code) == (1, "AVAILABLE", "OK")
    one.find(1, 2)
    one.settle()
    assert one.load.attempts == [1, 2], "a version that failed for good is not tried at every poll"
    one.find(1, 2, 3)
    one.settle()
    assert one.ask() == 3
    assert one.load.model(1).closed == 1


def test_what_a_foreign_exception_says_is_not_repeated(stage):
    one = stage(1)
    one.manager._load_model = lambda *_: {}["secret"]
    with pytest.raises(ModelsUnavailableError) as caught:
        one.start()
    assert "a defect in sealserve or its engine (KeyError)" in caught.value.message
    assert one.core.status(ModelChoice("m"))[0].error_code == "INTERNAL"


def test_a_failed_load_is_tried_again(stage):
    one = stage(1, load_retries=2)
    one.load.broken[1] = 2
    one.start()
    until(lambda: one.served() == [1])
    assert one.load.attempts == [1, 1, 1]
    assert one.core.status(ModelChoice("m"))[0].error_code == "OK"


def test_a_load_fails_for_good_after_its_retries(stage):
    one = stage(1, load_retries=2)
    one.load.broken[1] = 99
    with pytest.raises(ModelsUnavailableError) as caught:
        one.start()
    assert caught.value.code == "UNKNOWN"
    assert caught.value.message == (
        "1 model(s) did not become available: {{{name: m version: 1} due to error: version 1 is broken}, }"
    )
    assert one.load.attempts == [1, 1, 1]


def test_a_version_that_waits_to_be_tried_again_is_loading_and_holds_up_nobody(stage):
    one = stage(1, load_retries=1, retry_seconds=3600, load_threads=1).start()
    one.load.broken[2] = 1
    one.find(1, 2)
    one.settle()
    loading = one.core.status(ModelChoice("m", version=2))[0]
    assert (loading.state.name, loading.error_message) == ("LOADING", "version 2 is broken")
    one.manager.reload([one.config(), one.config(name="other", source=FakeSource(5, place="there"))])
    one.settle()
    assert one.ask("other") == 5
    assert one.ask() == 2, "a new configuration tries again at once"


def test_a_version_that_vanishes_while_it_is_loaded_is_given_up(stage):
    one = stage(1, load_retries=9, retry_seconds=3600).start()
    gate = one.load.gate(2)
    one.load.broken[2] = 1
    one.find(1, 2)
    one.load.wait_for_load()
    one.load.wait_for_load()
    one.find(1)
    gate.set()
    one.settle()
    assert one.ask() == 1
    assert one.states() == {2: "END", 1: "AVAILABLE"}
    assert one.core.status(ModelChoice("m", version=2))[0].error_message == "version 2 is broken"


def test_a_version_that_is_not_wanted_any_more_when_its_turn_comes_is_not_loaded(stage):
    one = stage(1, load_threads=1).start(All())
    gate = one.load.gate(3)
    one.find(1, 2, 3)
    until(lambda: one.load.attempts == [1, 3])
    one.source.versions = lambda: [1, 3]  # it could still be opened
    one.manager.poll()
    gate.set()
    one.settle()
    assert one.load.attempts == [1, 3]
    assert one.served() == [1, 3]


def test_what_was_seen_under_an_old_configuration_does_not_count(stage):
    one = stage(1).start()
    moved = FakeSource(5, place="moved")

    def look():
        del one.source.versions
        one.manager.reload([one.config(source=moved)])
        return [1]

    one.source.versions = look
    one.manager.poll()
    one.settle()
    assert one.served() == [5]


def test_a_version_that_is_not_wanted_any_more_when_it_is_loaded_never_answers(stage):
    one = stage(1).start()
    added, add_model = [], one.core.add_model
    one.core.add_model = lambda *arguments, **options: (added.append(arguments), add_model(*arguments, **options))
    gate = one.load.gate(2)
    one.find(1, 2)
    one.load.wait_for_load()
    one.load.wait_for_load()
    one.find(1)
    gate.set()
    one.settle()
    assert one.ask() == 1
    assert one.states() == {2: "END", 1: "AVAILABLE"}
    assert one.load.model(2).closed == 1
    assert added == []


def test_one_that_does_not_close_either_is_still_done_with(stage):
    one = stage(1).start()
    gate = one.load.gate(2)
    one.find(2)
    one.load.wait_for_load()
    one.load.wait_for_load()
    one.find(1)
    real = one.manager._publish

    def publish(model, version, loaded, seconds):
        loaded.close = None
        real(model, version, loaded, seconds)

    one.manager._publish = publish
    gate.set()
    one.settle()
    assert one.states() == {2: "END", 1: "AVAILABLE"}


def test_a_superseded_version_answers_when_nothing_else_does(stage):
    one = stage(1)
    first, second = one.load.gate(1), one.load.gate(2)
    one.start(wait=False)
    one.load.wait_for_load()
    one.find(1, 2)
    first.set()
    until(lambda: one.served() == [1])
    second.set()
    one.settle()
    assert one.served() == [2]


def test_sources_that_cannot_be_read_change_nothing(stage):
    one = stage(1, 2).start(Latest(2))
    one.source.unreadable = True
    one.manager.poll()
    one.settle()
    assert one.served() == [1, 2]


def test_a_source_that_is_defective_keeps_no_other_from_being_looked_at(stage):
    one = stage(1)
    defective, other = FakeSource(1, place="defective"), FakeSource(1, place="other")
    one.manager.start([one.config(name="a", source=defective), one.config(name="b", source=other)])
    defective.versions = lambda: {}["secret"]
    other.present = {2}
    one.manager.poll()
    one.settle()
    assert (one.ask("a"), one.ask("b")) == (1, 2)


def test_a_version_whose_directory_is_gone_is_unloaded(stage):
    one = stage(1, 2).start(All())
    one.find(2)
    one.settle()
    assert one.served() == [2]
    one.find()
    one.settle()
    assert one.served() == []
    assert not one.core.ready
    with pytest.raises(ServableNotFoundError, match=r"Latest\(m\)"):
        one.ask()
    one.find(2)
    one.settle()
    assert one.ask() == 2
    assert one.states() == {2: "AVAILABLE", 1: "END"}


def test_a_model_without_versions_is_served_as_soon_as_there_is_one(stage):
    one = stage().start()
    assert not one.core.ready
    assert one.core.names() == ["m"]
    with pytest.raises(ServableNotFoundError, match="Could not find any versions of model m"):
        one.core.status(ModelChoice("m"))
    one.find(4)
    one.settle()
    assert one.core.ready
    assert one.ask() == 4


def test_polling_goes_on_by_itself(stage):
    one = stage(1, poll_seconds=0.01).start()
    one.source.present = {1, 2}
    until(lambda: one.served() == [2])
    one.source.present = {3}
    until(lambda: one.served() == [3])


def test_the_list_of_ended_versions_is_bounded(stage):
    one = stage(0).start()
    for version in range(1, 30):
        one.find(version)
        one.settle()
    states = one.states()
    assert states.pop(29) == "AVAILABLE"
    assert states == dict.fromkeys(range(28, 20, -1), "END")
    with pytest.raises(ServableNotFoundError, match="Could not find version 3 of model m"):
        one.core.status(ModelChoice("m", version=3))


def test_models_that_are_gone_are_forgotten_in_the_end(stage):
    one = stage(1).start()
    for number in range(50):
        one.manager.reload([one.config(name=f"model-{number}")])
        one.settle()
    assert one.states("model-49") == {1: "AVAILABLE"}
    assert one.states("model-48") == {1: "END"}
    with pytest.raises(ServableNotFoundError):
        one.states("model-3")
    assert len(one.core._statuses) < 40


def test_a_configuration_is_exchanged_as_a_whole(stage):
    one = stage(1, 2).start(All())
    other = FakeSource(7, place="there")
    one.manager.reload([one.config(Specific(frozenset({1}))), one.config(name="other", source=other)])
    assert one.core.names() == ["m", "other"]
    assert one.ask("other") == 7
    one.settle()
    assert one.served() == [1]
    one.manager.reload([one.config(name="other", source=other)])
    one.settle()
    assert one.core.names() == ["other"]
    assert one.states() == {1: "END", 2: "END"}
    assert [model.closed for model in one.load.models] == [1, 1, 0]


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"name": "m"}, RequestError, "Illegal to list model m multiple times in config list"),
        ({"name": ""}, RequestError, "a model in the config list has no name"),
        (
            {"name": "n", "source": FakeSource(place="empty")},
            ServableNotFoundError,
            "Unable to find a numerical version path for servable n",
        ),
        (
            {"name": "n", "source": FakeSource(1, place="locked")},
            RequestError,
            "Could not find base path for servable n with error cannot read the directory",
        ),
        (
            {"name": "n", "source": FakeSource(1, place="there"), "labels": {"stable": 1}},
            LabelError,
            "Request to assign label to version 1 of model n, which is not currently available for inference",
        ),
    ],
)
def test_a_configuration_that_is_refused_changes_nothing(stage, change, kind, says):
    one = stage(1, 2).start(All())
    one.manager.reload([one.config(All(), labels={"canary": 2})])
    if (source := change.get("source")) and source.place == "locked":
        source.unreadable = True
    with pytest.raises(kind) as caught:
        one.manager.reload([one.config(Specific(frozenset({1}))), one.config(**change)])
    assert caught.value.message == says
    one.settle()
    assert one.served() == [1, 2]
    assert one.core.names() == ["m"]
    assert one.ask(label="canary") == 2


def test_a_new_model_that_cannot_be_loaded_is_reported_and_the_others_are_served(stage):
    one = stage(1).start()
    one.load.broken[66] = 99
    with pytest.raises(ModelsUnavailableError, match="name: bad version: 66") as caught:
        one.manager.reload(
            [
                one.config(),
                one.config(name="bad", source=FakeSource(66, place="bad")),
                one.config(name="good", source=FakeSource(5, place="good")),
            ]
        )
    assert caught.value.message.startswith("1 model(s)")
    assert (one.ask(), one.ask("good")) == (1, 5)
    assert not one.core.ready
    assert one.states("bad") == {66: "END"}


def test_labels_stand_for_versions_that_are_loaded(stage):
    one = stage(1, 2).start(All())
    with pytest.raises(RequestError, match=r"^Unrecognized servable version label: stable$"):
        one.ask(label="stable")
    one.manager.reload([one.config(All(), labels={"stable": 1, "canary": 2})])
    assert (one.ask(label="stable"), one.ask(label="canary"), one.ask()) == (1, 2, 2)
    assert [status.version for status in one.core.status(ModelChoice("m", label="stable"))] == [1]
    one.manager.reload([one.config(All(), labels={"stable": 2})])
    assert one.ask(label="stable") == 2
    with pytest.raises(RequestError, match="Unrecognized servable version label: canary"):
        one.ask(label="canary")


def test_a_label_on_a_version_that_went_finds_no_servable(stage):
    one = stage(1, 2).start(All())
    one.manager.reload([one.config(All(), labels={"stable": 1})])
    one.find(2)
    one.settle()
    with pytest.raises(ServableNotFoundError, match=r"^Servable not found for request: Specific\(m, 1\)$"):
        one.ask(label="stable")


def test_labels_may_come_before_their_versions_if_that_is_allowed(stage):
    one = stage(1, allow_unavailable_labels=True).start(labels={"stable": 1, "canary": 2})
    assert one.ask(label="stable") == 1
    with pytest.raises(ServableNotFoundError, match=r"Specific\(m, 2\)"):
        one.ask(label="canary")
    with pytest.raises(LabelError):  # a label in use is not sent into the void
        one.manager.reload([one.config(labels={"stable": 3})])
    assert one.ask(label="stable") == 1


def test_without_that_the_first_configuration_has_no_labels(stage):
    one = stage(1)
    with pytest.raises(LabelError):
        one.start(labels={"stable": 1})
    assert one.load.attempts == []


@pytest.mark.parametrize("change", [{"source": FakeSource(1, 2, place="moved")}, {"engine": "tensorflow"}])
def test_the_same_versions_from_elsewhere_take_the_place_of_the_old_ones(stage, change):
    one = stage(1, 2).start(All())
    before = list(one.load.models)
    gates = [one.load.gate(1), one.load.gate(2)]
    one.manager.reload([one.config(All(), **change)])
    assert (one.ask(version=1), one.ask(version=2)) == (1, 2)
    assert one.states() == {1: "AVAILABLE", 2: "AVAILABLE"}
    for gate in gates:
        gate.set()
    one.settle()
    assert [model.closed for model in before] == [1, 1]
    assert sorted(model.version for model in one.load.models if not model.closed) == [1, 2]
    assert one.load.most_in_memory == 3
    if source := change.get("source"):
        assert {model.place for model in one.load.models if not model.closed} == {source.place}


def test_fewer_versions_from_elsewhere_find_room(stage):
    one = stage(1, 2, 3, 4).start(All())
    one.manager.reload([one.config(All(), source=FakeSource(1, place="moved"))])
    one.settle()
    assert one.served() == [1]
    assert [model.place for model in one.load.models if not model.closed] == ["moved"]


def test_stopping_closes_everything_once_and_loads_nothing_more(stage):
    one = stage(1, 2).start(All())
    gate = one.load.gate(3)
    one.find(1, 2, 3)
    for _ in range(3):
        one.load.wait_for_load()
    one.manager.stop()
    assert one.served() == []
    gate.set()
    one.settle()
    assert one.served() == []
    assert [model.closed for model in one.load.models] == [1, 1, 1]


def test_events_say_what_happened(stage):
    records, handler, logger = [], logging.Handler(), logging.getLogger("sealserve")
    handler.emit = records.append
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        one = stage(1).start()
        one.load.broken[2] = 1
        one.find(2)
        until(lambda: any(record.getMessage() == "model-version-failed" for record in records))
        one.settle()
        one.find(3)
        one.settle()
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    lines = [json.loads(JsonFormatter().format(record)) for record in records]
    told = [(line["event"], line.get("version")) for line in lines if line["level"] != "debug"]
    assert told[:6] == [
        ("models-configured", None),
        ("model-version-loading", 1),
        ("model-version-loaded", 1),
        ("model-version-loading", 2),
        ("model-version-failed", 2),
        ("model-version-loading", 3),
    ]
    assert sorted(told[6:]) == [("model-version-loaded", 3), ("model-version-unloaded", 1)]
    failed = next(line for line in lines if line["event"] == "model-version-failed")
    assert failed["reason"] == "version 2 is broken"
    assert failed["serving"] == [1]
    assert failed["tried_again"] is False


def test_versions_swapped_under_load_give_no_error_and_no_wrong_answer(stage):
    one = stage(1, load_threads=2, poll_seconds=0.005).start(Latest(2))
    stop, wrong = threading.Event(), []

    def ask():
        count, last = 0, 0
        while not stop.is_set():
            try:
                with one.core.use(ModelChoice("m")) as (version, loaded):
                    answer = int(loaded.predict("", {})["version"])
                if answer != version or version < last:
                    wrong.append((answer, version, last))
                last = version
                count += 1
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for version in range(2, 60):
        one.source.present = {version, version - 1}
        until(lambda: one.served()[-1] == version)  # noqa: B023
    stop.set()
    for asker in askers:
        asker.join(PATIENCE)
    one.settle()
    assert wrong == []
    assert sum(not model.closed for model in one.load.models) == 2
    assert max(model.closed for model in one.load.models) == 1
