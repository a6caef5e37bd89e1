"""What an apply would change."""

from __future__ import annotations

import base64

from live_case import Case

from sealserve.kubernetes.live import kinds
from sealserve.kubernetes.live.comparing import differences


def test_there_is_no_difference_after_an_apply_and_none_is_made_by_looking(case: Case) -> None:
    case.apply()
    before = dict(case.server.objects)
    assert differences(case.cluster, case.objects, name="photos") == ([], True)
    assert case.server.objects == before


def test_a_change_is_shown_line_by_line_without_what_the_server_writes(case: Case) -> None:
    case.apply()
    _, objects = case.deployment("nginx-simulated", resources={"cpu": "3"})
    (found,), _ = differences(case.cluster, objects, name="photos")
    assert (found.kind, found.name, found.what) == ("Deployment", "photos-replica", "changed")
    assert "+            cpu: '3'" in found.text
    assert not {"managedFields", "resourceVersion", "uid"} & set(found.text.replace(":", " ").split())


def test_text_of_several_lines_is_compared_by_its_own_lines(case: Case) -> None:
    case.apply()
    live = case.server.get(kinds.CONFIG_MAP, "photos-edge")
    ((key, text),) = live["data"].items()
    edited = text.replace("worker_connections", "worker_connections ", 1) + "\t# mine, café \n"
    case.server.put({**live, "data": {key: edited}})
    (found,), _ = differences(case.cluster, case.objects, name="photos")
    changed = [line for line in found.text.splitlines()[2:] if line[0] in "+-"]
    assert len(changed) == 3
    assert "-    \t# mine, café " in changed


def test_before_there_is_a_namespace_everything_is_shown_and_said_to_be_unjudged(case: Case) -> None:
    found, judged = differences(case.cluster, case.objects, name="photos")
    assert (len(found), judged) == (len(case.objects), False)
    assert {each.what for each in found} == {"created"}
    assert case.server.objects == {}


def test_what_would_be_removed_is_shown(case: Case) -> None:
    case.apply()
    _, objects = case.deployment("nginx-simulated", edge={"kind": "node-port"})
    removed = {each.name for each in differences(case.cluster, objects, name="photos")[0] if each.what == "removed"}
    assert removed == {"photos-edge"}


def test_values_of_secrets_are_not_shown(case: Case) -> None:
    def secret(value: bytes) -> dict[str, object]:
        data = {"key": base64.b64encode(value).decode(), "same": "c2FtZQ=="}
        return case.plan.object("v1", "Secret", "photos-simulated-platform", "replica", type="Opaque", data=data)

    first = differences(case.cluster, [*case.objects, secret(b"old value")], name="photos")[0][-1]
    case.apply([*case.objects, secret(b"old value")])
    (second,), _ = differences(case.cluster, [*case.objects, secret(b"new value")], name="photos")
    assert second.kind == kinds.SECRET.name
    for each in (first, second):
        assert not any(base64.b64encode(word).decode() in each.text for word in (b"old value", b"new value"))
    assert "+  key: (hidden, and not what is there now)" in second.text
    assert "+  same" not in second.text


def test_what_kubectl_remembers_of_a_secret_is_not_shown(case: Case) -> None:
    value = base64.b64encode(b"old value").decode()
    name = "photos-simulated-platform"
    secret = case.plan.object("v1", "Secret", name, "replica", type="Opaque", data={"key": value})
    case.apply([*case.objects, secret])
    live = case.server.get(kinds.SECRET, name)
    history = {"kubectl.kubernetes.io/last-applied-configuration": f'{{"data":{{"key":"{value}"}}}}'}
    case.server.put({**live, "metadata": {**live["metadata"], "annotations": history}})
    (found,), _ = differences(case.cluster, [*case.objects, {**secret, "data": {"key": "bmV3"}}], name="photos")
    assert value not in found.text
