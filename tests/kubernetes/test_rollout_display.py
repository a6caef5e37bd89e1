"""A rolling update as people see it: what is new first, what is old marked, on 80 columns."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.text import Text

from sealserve.cli import rollout_display
from sealserve.kubernetes.live.edge_state import EdgeState
from sealserve.kubernetes.live.replica_state import ReplicaState, State
from sealserve.kubernetes.live.rollout import Snapshot

_WAITS = "the key broker at photos-broker.photos.svc:4433 gives no answer (connection refused), asking again in 5 s"
_OLD = ReplicaState("photos-replica-1-old", "1", "node", State.SERVING, None, True, 0, None, "old", None)
_NEW = replace(_OLD, pod="photos-replica-2-new", template="new")
_BEFORE = Snapshot((_OLD,), {"canary": None}, 1, "new replicas", EdgeState(ready=True))
_DURING = Snapshot(
    (
        replace(_OLD, pod="photos-replica-0-gone", state=State.LEAVING),
        _OLD,
        _NEW,
        replace(_NEW, pod="photos-replica-3-new", state=State.WAITING_FOR_BROKER, reason=_WAITS),
    ),
    {"replica": "new", "canary": None},
    2,
    "new replicas",
    EdgeState(ready=True),
)


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_names_no_replicas_before_it_is_known_which_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = _Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with rollout_display.rollout_display(quiet=False) as show:
        show(_BEFORE)
    assert "0 of 1 replicas attested, serving" in screen.getvalue()
    assert _OLD.pod not in screen.getvalue()


def test_a_pipe_gets_new_replicas_first_and_old_ones_marked(capsys: pytest.CaptureFixture[str]) -> None:
    with rollout_display.rollout_display(quiet=False) as show:
        show(_BEFORE)
        show(_DURING)
        show(_DURING)
    assert capsys.readouterr().out.splitlines() == [
        f"photos-replica-3-new  waiting-for-broker: {_WAITS}",
        "photos-replica-2-new  attested, serving",
        "photos-replica-0-gone  old, leaving",
        "photos-replica-1-old  old, attested, serving",
        "edge  ready",
    ]


@pytest.mark.parametrize(("height", "whole"), [(24, True), (8, False)])
def test_a_terminal_of_80_columns_shows_whole_reasons(
    monkeypatch: pytest.MonkeyPatch, height: int, *, whole: bool
) -> None:
    screen = _Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", str(height))
    with rollout_display.rollout_display(quiet=False) as show:
        show(_DURING)
    text = " ".join(Text.from_ansi(screen.getvalue()).plain.split())
    assert "1 of 2 replicas attested, serving; 1 from before serves photos-replica-3-new waiting-for-broker" in text
    assert _WAITS in text
    assert ("photos-replica-1-old old, attested, serving" in text) == whole
    assert ("and 2 more" in text) != whole
