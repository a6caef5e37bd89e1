"""``sealserve k8s status``, ``logs`` and ``scale`` against an API server that is played here."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer, kubeconfig
from click import UsageError
from click.testing import CliRunner, Result
from kubernetes_cases import write_deployment

from sealserve.cli import cluster_options
from sealserve.cli.main import cli
from sealserve.deploy import load_deployment
from sealserve.errors import ConfigurationError, InputError, UnavailableError
from sealserve.kubernetes.live import following
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.following import Line, PodLogs
from sealserve.kubernetes.plan import plan_for_reading

NAMESPACE = "/apis/apps/v1/namespaces/serving"
PODS = "/api/v1/namespaces/serving/pods"
DEPLOYMENTS = f"{NAMESPACE}/deployments"
DEPLOYMENT = f"{DEPLOYMENTS}/photos-replica"
AUTOSCALERS = "/apis/autoscaling/v2/namespaces/serving/horizontalpodautoscalers"
CHANGES = {
    "image": {"brokers": ["photos-broker.serving.svc:4433"]},
    "kubernetes": {"namespace": "serving", "broker": "192.0.2.10:4433"},
}
REFUSED = {"event": "grant-refused", "reason": "refused \x1b[31m (measurement, decision 12)"}
FORBIDDEN = {"message": 'pods "x" is forbidden: User "jane" cannot get resource "pods/log"'}


def _pod(number: int, *, ready: bool = True, **metadata: Any) -> dict[str, Any]:
    container = {
        "name": "replica",
        "restartCount": number,
        "ready": ready,
        "started": ready,
        "state": {"running": {"startedAt": "2026-11-30T05:00:05Z"}},
    }
    return {
        "metadata": {"name": f"photos-replica-{number}", "namespace": "serving", "uid": str(number)} | metadata,
        "spec": {"nodeName": "node-1", "containers": [{"name": "replica", "image": "i"}]},
        "status": {
            "conditions": [
                {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-11-30T05:00:00Z"},
                {"type": "PodScheduled", "status": "True"},
            ],
            "containerStatuses": [container],
        },
    }


def _unschedulable(number: int) -> dict[str, Any]:
    pod = _pod(number, ready=False)
    why = {"reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient memory."}
    pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", **why}]}
    return pod


def _deployment(name: str, wanted: int, ready: int) -> dict[str, Any]:
    counts = {"updatedReplicas": wanted, "replicas": wanted, "readyReplicas": ready, "observedGeneration": 1}
    metadata = {"name": name, "generation": 1, "labels": {"app.kubernetes.io/component": "replica"}}
    return {"metadata": metadata, "spec": {"replicas": wanted}, "status": counts}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        made.objects |= {
            DEPLOYMENT: _deployment("photos-replica", 2, 2),
            DEPLOYMENTS: [_deployment("photos-replica", 2, 2)],
            f"{NAMESPACE}/deployments/photos-edge": _deployment("photos-edge", 2, 2),
            PODS: [_pod(1), _pod(2)],
            AUTOSCALERS: [],
            "/api/v1/namespaces/serving/services/photos": {
                "spec": {"type": "ClusterIP", "ports": [{"name": "grpc", "port": 8500}]},
                "status": {},
            },
            "/api/v1/namespaces/serving/services/photos-broker": {"spec": {"clusterIP": "None"}},
            "/apis/discovery.k8s.io/v1/namespaces/serving/endpointslices": [
                {"endpoints": [{"addresses": ["192.0.2.10"]}]}
            ],
            "/apis/networking.k8s.io/v1/namespaces/serving/networkpolicies": [{"metadata": {"name": "photos-replica"}}],
        }
        for number in (1, 2):
            _log(made, number, json.dumps({"event": "model-served", "model": "classifier", "version": 3}))
        yield made


def _log(server: ApiServer, number: int, *lines: str) -> None:
    """What a pod said, line by line, a second after another."""

    def answer(query: dict[str, list[str]], _: Any) -> tuple[int, str]:
        stamp = "2026-11-30T05:00:{:02}.{}00000000Z " if "timestamps" in query else ""
        return 200, "".join(f"{stamp.format(second, number)}{line}\n" for second, line in enumerate(lines))

    server.answers["GET", f"{PODS}/photos-replica-{number}/log"] = answer


@pytest.fixture(autouse=True)
def _as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts the tests may have told them how wide a terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


def _run(server: ApiServer, directory: Path, *arguments: str) -> Result:
    deployment = write_deployment(directory, CHANGES)
    options = ["-f", str(deployment), "--kubeconfig", str(server.kubeconfig(directory))]
    return CliRunner().invoke(cli, ["k8s", *arguments, *options], standalone_mode=False)


def _told(server: ApiServer, directory: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = _run(server, directory, "status", "--json", *arguments)
    if result.exception is not None:
        raise result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    return result.return_value, told


def test_status_of_a_deployment_that_serves(server: ApiServer, tmp_path: Path) -> None:
    code, told = _told(server, tmp_path)
    assert code == 0
    assert (told["wanted"], told["serving"], told["complete"], told["tee"]) == (2, 2, True, "simulated")
    assert [(each["pod"], each["state"], each["restarts"], each["model"]) for each in told["replicas"]] == [
        ("photos-replica-1", "serving", 1, "classifier/3"),
        ("photos-replica-2", "serving", 2, "classifier/3"),
    ]
    assert told["broker"] == {"photos-broker.serving.svc:4433": "192.0.2.10"}
    assert told["policies"] == "photos-replica"
    assert told["edge"]["ready"]


def test_status_says_in_the_brokers_words_why_a_replica_does_not_serve(server: ApiServer, tmp_path: Path) -> None:
    server.objects[PODS] = [_pod(1), _pod(2, ready=False)]
    _log(server, 2, json.dumps(REFUSED))
    result = _run(server, tmp_path, "status")
    assert result.return_value == 5
    assert "SIMULATED" in result.output
    assert "1 of 2 replicas serve" in result.output
    assert "(measurement, decision 12)" in result.output
    assert "\x1b" not in result.output


def test_of_a_broker_that_is_away_status_says_once_how_it_is_started(server: ApiServer, tmp_path: Path) -> None:
    server.objects[PODS] = [_pod(1, ready=False), _pod(2, ready=False)]
    for number in (1, 2):
        _log(server, number, json.dumps({"event": "waiting-for-broker", "reason": "no answer"}))
    told = _run(server, tmp_path, "status").output
    assert told.count("Is the key broker running? On its owner's machine: `sealserve broker run -f ") == 1
    assert "owner/broker.yaml`" in told


def test_an_image_that_is_nowhere_is_explained_once(server: ApiServer, tmp_path: Path) -> None:
    pods = [_pod(1, ready=False), _pod(2, ready=False)]
    for pod, why in zip(pods, ("ErrImagePull", "ImagePullBackOff"), strict=True):
        waiting = {"reason": why, "message": 'Back-off pulling image "sealserve.local/photos:1@sha256:1": ' + "x" * 900}
        pod["status"]["containerStatuses"][0]["state"] = {"waiting": waiting}
    server.objects[PODS] = pods
    told = _run(server, tmp_path, "status").output
    assert told.count("load the archive (docs/kubernetes-quickstart.md)") == 1
    assert told.count("the same") == 1


def test_a_server_that_was_never_there_is_not_waited_for_by_commands_that_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_options, "_FIRST_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    file = write_deployment(tmp_path, CHANGES)
    config = kubeconfig(tmp_path, f"http://127.0.0.1:{port}")
    for command in ("status", "logs"):
        started = time.monotonic()
        result = CliRunner().invoke(
            cli, ["k8s", command, "-f", str(file), "--kubeconfig", str(config)], standalone_mode=False
        )
        assert isinstance(result.exception, UnavailableError)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("columns", ["30", "60", "100"])
def test_status_fits_the_terminal(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    server.objects[PODS] = [_pod(1), _pod(2, ready=False)]
    _log(server, 2, json.dumps({"event": "waiting-for-broker", "reason": "no key broker answered " * 5}))
    lines = _run(server, tmp_path, "status").output.splitlines()
    begin = lines.index("") + 1
    table = lines[begin : lines.index("", begin)]
    assert max(map(len, table)) <= max(int(columns), len("photos-replica-1") + 2)
    assert sum(line.count("answered") for line in lines) == 5


def test_status_does_without_what_it_may_not_read(server: ApiServer, tmp_path: Path) -> None:
    server.objects[PODS] = [_pod(1, ready=False), _pod(2, ready=False)]
    asked = []

    def refuse(_query: Any, _body: Any) -> tuple[int, Any]:
        asked.append(1)
        return 403, FORBIDDEN

    for number in (1, 2):
        server.answers["GET", f"{PODS}/photos-replica-{number}/log"] = refuse
    server.answers["GET", AUTOSCALERS] = refuse
    code, told = _told(server, tmp_path)
    assert code == 5
    assert [each["state"] for each in told["replicas"]] == ["starting", "starting"]
    assert told["autoscaler"].startswith("not known")
    assert len(asked) == 2, "a log that may not be read was asked for again"


def test_status_and_logs_do_not_wait_for_a_node_that_is_lost(server: ApiServer, tmp_path: Path) -> None:
    asked = []

    def lost(_query: Any, _body: Any) -> tuple[int, Any]:
        asked.append(1)
        return 500, {"message": 'Get "https://10.0.0.1:10250/": dial tcp: connect: connection refused'}

    for number in (1, 2):
        server.answers["GET", f"{PODS}/photos-replica-{number}/log"] = lost
    code, told = _told(server, tmp_path)
    assert code == 0, "the cluster has not noticed yet"
    assert [each["model"] for each in told["replicas"]] == [None, None]
    assert len(asked) == 1, "a node that does not answer was asked again"
    assert _run(server, tmp_path, "logs").output.count("its log cannot be had") == 2


def test_status_waits_until_all_replicas_serve(server: ApiServer, tmp_path: Path) -> None:
    server.objects[PODS] = [_pod(1), _pod(2, ready=False)]

    def come_up() -> None:
        server.objects[PODS] = [_pod(1), _pod(2)]

    timer = threading.Timer(0.5, come_up)
    timer.start()
    assert _told(server, tmp_path, "--wait", "30")[0] == 0
    server.objects[PODS] = [_pod(1)]
    assert _told(server, tmp_path, "--wait", "0")[0] == 5


def test_status_of_what_is_not_there(server: ApiServer, tmp_path: Path) -> None:
    server.objects[DEPLOYMENTS] = []
    result = _run(server, tmp_path, "status")
    assert result.return_value == 5
    assert "There is no Deployment photos-replica" in result.output


def test_logs_of_all_replicas_are_in_the_order_of_time(server: ApiServer, tmp_path: Path) -> None:
    _log(server, 1, "one", "three \x1b[2J")
    _log(server, 2, "two")
    result = _run(server, tmp_path, "logs")
    assert result.output.splitlines() == [
        "photos-replica-1 | one",
        "photos-replica-2 | two",
        "photos-replica-1 | three \\x1b[2J",
    ]
    assert _run(server, tmp_path, "logs", "photos-replica-2").output == "two\n"


def test_logs_are_for_people_unless_json_is_asked_for(server: ApiServer, tmp_path: Path) -> None:
    entry = {"time": "2026-11-30T05:00:00+00:00", "level": "warning", "logger": "sealserve.x", **REFUSED, "pod": "mine"}
    _log(server, 1, json.dumps({**entry, "exception": "Traceback:\nValueError: \x1b"}))
    _log(server, 2, "[notice] nginx")
    local = datetime(2026, 11, 30, 5, tzinfo=UTC).astimezone()
    first, *rest = _run(server, tmp_path, "logs").output.splitlines()
    said = "warning  grant-refused reason=refused \\x1b[31m (measurement, decision 12) pod=mine"
    assert first.startswith("photos-replica-1 | ")
    assert first.endswith(f"{local:%H:%M:%S} {said}")
    assert rest == [
        "photos-replica-1 | Traceback:",
        "photos-replica-1 | ValueError: \\x1b",
        "photos-replica-2 | [notice] nginx",
    ]
    raw, other = map(json.loads, _run(server, tmp_path, "logs", "--json").output.splitlines())
    assert raw == {**entry, "exception": "Traceback:\nValueError: \x1b", "pod": "photos-replica-1"}
    assert other == {"time": "2026-11-30T05:00:00.200000000Z", "text": "[notice] nginx", "pod": "photos-replica-2"}


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("line", ["[1]", "1", '"x"', "null", "[" * 100_000, '{"a": %s}' % ("[" * 980 + "]" * 980)])
def test_no_line_of_a_log_ends_the_command(server: ApiServer, tmp_path: Path, line: str, options: list[str]) -> None:
    _log(server, 1, line, "after")
    _log(server, 2)
    result = _run(server, tmp_path, "logs", *options)
    assert result.exception is None
    assert "after" in result.output.splitlines()[-1]


def test_what_is_asked_of_logs_reaches_the_api_server(server: ApiServer, tmp_path: Path) -> None:
    asked: list[dict[str, list[str]]] = []

    def answer(query: dict[str, list[str]], _: Any) -> tuple[int, str]:
        asked.append(query)
        return 200, ""

    server.answers["GET", f"{PODS}/photos-replica-1/log"] = answer
    _run(server, tmp_path, "logs", "photos-replica-1", "--tail", "0", "--since", "60", "--previous")
    _run(server, tmp_path, "logs", "photos-replica-1")
    common = {"timestamps": ["true"], "limitBytes": [str(1 << 20)]}
    assert asked == [
        {**common, "tailLines": ["0"], "sinceSeconds": ["60"], "previous": ["true"]},
        {**common, "tailLines": ["50"]},
    ]


def test_following_takes_up_new_pods_and_tells_nothing_twice(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.2)
    server.objects[PODS] = [_pod(1)]
    server.objects[f"{PODS}/photos-replica-1"] = _pod(1)
    _log(server, 1, "one", "two")
    plan = plan_for_reading(load_deployment(write_deployment(tmp_path, CHANGES)))
    with Cluster.connect(server.kubeconfig(tmp_path)) as cluster:
        lines = PodLogs(cluster, plan, tail=5).follow()
        assert [next(lines).text for _ in range(2)] == ["one", "two"]
        # The stream ended, and the container runs: it is taken up where it ended.
        _log(server, 1, "one", "two", "three")
        assert next(lines).text == "three"
        _log(server, 2, "four")
        server.objects[PODS] = [_pod(1), _pod(2)]
        assert next(lines) == Line("photos-replica-2", "2026-11-30T05:00:00.200000000Z", "four")


def test_logs_of_a_pod_that_is_not_there_name_those_that_are(server: ApiServer, tmp_path: Path) -> None:
    error = _run(server, tmp_path, "logs", "photos-replica-9").exception
    assert isinstance(error, InputError)
    assert "photos-replica-1, photos-replica-2" in str(error.hint)


def test_logs_that_are_empty_say_why_on_standard_error(server: ApiServer, tmp_path: Path) -> None:
    for number in (1, 2):
        _log(server, number)
    assert "nothing was said in the last 300 seconds" in _run(server, tmp_path, "logs", "--since", "5m").stderr
    assert "no container ended before" in _run(server, tmp_path, "logs", "-p").stderr
    begun = _pod(1)
    begun["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ContainerCreating"}}
    server.objects[PODS] = [begun]
    assert "no container has begun yet" in _run(server, tmp_path, "logs").stderr
    server.objects[PODS] = []
    result = _run(server, tmp_path, "logs", "--json")
    assert (result.exception, result.stdout) == (None, "")
    assert "there are no replicas now" in result.stderr
    del server.objects[DEPLOYMENT]
    assert "there is no Deployment photos-replica in serving" in _run(server, tmp_path, "logs").stderr
    server.answers["GET", DEPLOYMENT] = lambda _query, _body: (403, FORBIDDEN)
    result = _run(server, tmp_path, "logs")
    assert (result.exception, "there are no replicas now" in result.stderr) == (None, True)
    _log(server, 1, "something")
    server.objects[PODS] = [_pod(1)]
    assert _run(server, tmp_path, "logs").stderr == ""


def test_following_nothing_says_what_is_waited_for(server: ApiServer, tmp_path: Path) -> None:
    plan = plan_for_reading(load_deployment(write_deployment(tmp_path, CHANGES)))
    with Cluster.connect(server.kubeconfig(tmp_path)) as cluster:
        assert PodLogs(cluster, plan).why_silent(follow=True) is None
        server.objects[PODS] = []
        assert "the first is waited for" in str(PodLogs(cluster, plan).why_silent(follow=True))


def test_a_pod_may_be_named_as_kubectl_has_it(server: ApiServer, tmp_path: Path) -> None:
    _log(server, 1, "here")
    assert _run(server, tmp_path, "logs", "pod/photos-replica-1").stdout == "here\n"
    assert "is no pod" in str(_run(server, tmp_path, "logs", "deployment/photos-replica").exception)


def test_scale_says_who_is_attested_and_what_else_to_change(server: ApiServer, tmp_path: Path) -> None:
    def scaled(_query: Any, body: Any) -> tuple[int, Any]:
        server.objects[DEPLOYMENT] = _deployment("photos-replica", body["spec"]["replicas"], 3)
        server.objects[PODS] = [_pod(1), _pod(2), _pod(3)]
        return 200, {}

    server.answers["PATCH", f"{DEPLOYMENT}/scale"] = scaled
    assert isinstance(_run(server, tmp_path, "scale").exception, UsageError)
    assert isinstance(_run(server, tmp_path, "scale", "3", "--replicas=3").exception, UsageError)
    result = _run(server, tmp_path, "scale", "--replicas=3")
    assert result.exception is None
    assert "photos-replica: 2 -> 3 replicas" in result.output
    assert "photos-replica-3  attested, serving" in result.output
    assert "replicas.count in" in result.output
    assert server.written == [("PATCH", f"{DEPLOYMENT}/scale")]


def test_replicas_start_a_few_at_a_time_if_told_so(server: ApiServer, tmp_path: Path) -> None:
    asked: list[int] = []
    meanwhile, settled = 0, True

    def scaled(_query: Any, body: Any) -> tuple[int, Any]:
        asked.append(body["spec"]["replicas"])
        server.objects[DEPLOYMENT] = _deployment("photos-replica", meanwhile or asked[-1], asked[-1])
        server.objects[DEPLOYMENT]["status"]["availableReplicas"] = asked[-1] if settled else 2
        server.objects[PODS] = [_pod(number + 1) for number in range(asked[-1])]
        return 200, {}

    server.answers["PATCH", f"{DEPLOYMENT}/scale"] = scaled
    result = _run(server, tmp_path, "scale", "5", "--at-a-time", "2")
    assert result.exception is None
    assert asked == [4, 5]
    assert result.output.count("replicas.count in") == 1
    assert "photos-replica: 2 -> 4 replicas" in result.output
    assert "photos-replica: 4 -> 5 replicas" in result.output
    assert _run(server, tmp_path, "scale", "1", "--at-a-time", "2").exception is None
    assert asked.pop() == 1, "fewer at once: what leaves disturbs nobody"
    meanwhile = 9
    error = _run(server, tmp_path, "scale", "3", "--at-a-time", "1").exception
    assert isinstance(error, InputError)
    assert "somebody else has asked for 9 replicas of photos-replica, and 2 were asked for here" in error.message
    assert asked == [4, 5, 2]
    meanwhile, settled = 0, False
    server.objects[DEPLOYMENT] = _deployment("photos-replica", 2, 2)
    error = _run(server, tmp_path, "scale", "5", "--at-a-time", "1", "--timeout", "0").exception
    assert isinstance(error, UnavailableError)
    assert "3 of 3 replicas serve after 0 seconds, and others still leave, or proxies have yet to hear" in error.message
    assert asked == [4, 5, 2, 3]
    assert isinstance(_run(server, tmp_path, "scale", "5", "--at-a-time", "2", "--no-wait").exception, UsageError)


def test_no_more_replicas_start_when_the_first_of_them_do_not_come(server: ApiServer, tmp_path: Path) -> None:
    server.answers["PATCH", f"{DEPLOYMENT}/scale"] = lambda _query, _body: (200, {})
    error = _run(server, tmp_path, "scale", "9", "--at-a-time", "1", "--timeout", "0").exception
    assert isinstance(error, UnavailableError)
    assert "2 of 3 replicas serve after 0 seconds;" in error.message
    assert error.message.endswith("; no more were asked for, and the same command goes on to 9")
    assert server.written == [("PATCH", f"{DEPLOYMENT}/scale")]


def test_scale_ends_when_replicas_do_not_come(server: ApiServer, tmp_path: Path) -> None:
    server.answers["PATCH", f"{DEPLOYMENT}/scale"] = lambda _query, _body: (200, {})
    error = _run(server, tmp_path, "scale", "3", "--timeout", "0").exception
    assert isinstance(error, UnavailableError)
    assert "2 of 3 replicas serve" in error.message
    assert str(error.hint).startswith("They go on by themselves")


def test_scale_says_what_helps_where_replicas_do_not_go_on_by_themselves(server: ApiServer, tmp_path: Path) -> None:
    server.answers["PATCH", f"{DEPLOYMENT}/scale"] = lambda _query, _body: (200, {})
    server.objects[PODS] = [_pod(1), _unschedulable(2)]
    result = _run(server, tmp_path, "scale", "3", "--timeout", "0")
    hint = str(getattr(result.exception, "hint", None))
    assert "by themselves" not in hint
    assert "No node has as much memory left" in hint
    assert "No node has as much memory left" in result.stderr, "it is said before the time is up"
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"}
    server.objects[PODS] = [_pod(1), _pod(2)]
    server.objects[DEPLOYMENT]["status"]["conditions"] = [condition]
    hint = str(getattr(_run(server, tmp_path, "scale", "3", "--timeout", "0").exception, "hint", None))
    assert hint.startswith("The cluster makes no more pods: exceeded quota: small.")
    assert "by themselves" not in hint


def test_an_interrupted_scale_says_that_the_cluster_goes_on(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    server.answers["PATCH", f"{DEPLOYMENT}/scale"] = lambda _query, _body: (200, {})
    monkeypatch.setattr("sealserve.kubernetes.live.scaling.Reporter.states", interrupted)
    told = _run(server, tmp_path, "scale", "3").stderr
    assert "3 replicas are asked for, and the cluster goes on: `sealserve k8s status` shows it." in told


def test_that_there_is_no_room_is_said_in_full_once(server: ApiServer, tmp_path: Path) -> None:
    server.objects[PODS] = [_pod(1), _unschedulable(2), _unschedulable(3)]
    told = _run(server, tmp_path, "status").output
    assert told.count("Insufficient memory") == 1
    assert told.count("the same") == 1
    assert told.count("No node has as much memory left") == 1


def test_scale_leaves_an_autoscaler_its_word(server: ApiServer, tmp_path: Path) -> None:
    target = {"kind": "Deployment", "name": "photos-replica"}
    server.objects[AUTOSCALERS] = [
        {
            "metadata": {"name": "keda-hpa-photos"},
            "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 8},
        }
    ]
    error = _run(server, tmp_path, "scale", "3").exception
    assert isinstance(error, ConfigurationError)
    assert "keda-hpa-photos: 2 to 8" in error.message
    assert server.written == []
    assert _told(server, tmp_path)[1]["autoscaler"] == "keda-hpa-photos: 2 to 8"


def test_scaling_to_nothing_is_warned_of(server: ApiServer, tmp_path: Path) -> None:
    server.answers["PATCH", f"{DEPLOYMENT}/scale"] = lambda _query, _body: (200, {})
    assert "nobody answers clients" in _run(server, tmp_path, "scale", "0", "--no-wait").output
