"""The order of loading and unloading, whatever versions come, go and fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.serving.versions.policy import IN_MEMORY, All, Candidate, Latest, Phase, Specific, next_step


@given(st.sets(st.integers(0, 99)), st.integers(0, 5), st.frozensets(st.integers(0, 99)))
def test_policies_choose_of_what_there_is(there, count, specific):
    assert Latest(count).choose(there) == sorted(there)[-max(count, 1) :]
    assert All().choose(there) == sorted(there)
    assert Specific(specific).choose(there) == sorted(there & specific)


@pytest.mark.parametrize(
    ("candidates", "step"),
    [
        ([], None),
        ([(1, True, Phase.NEW), (2, True, Phase.NEW)], ("load", 1)),
        ([(1, False, Phase.READY), (2, True, Phase.NEW)], ("load", 1)),
        ([(1, False, Phase.READY), (2, True, Phase.LOADING)], None),
        ([(1, False, Phase.READY), (2, True, Phase.READY)], ("unload", 0)),
        ([(1, False, Phase.READY), (2, True, Phase.FAILED)], None),
        ([(1, False, Phase.READY), (2, True, Phase.WAITING)], None),
        ([(1, False, Phase.READY), (2, False, Phase.READY), (3, True, Phase.NEW)], ("unload", 0)),
        ([(1, False, Phase.UNLOADING), (2, False, Phase.READY), (3, True, Phase.NEW)], None),
        ([(1, False, Phase.READY)], ("unload", 0)),
        ([(1, False, Phase.READY), (1, True, Phase.NEW)], ("load", 1)),
        ([(1, False, Phase.UNLOADING), (1, True, Phase.NEW)], None),
        ([(1, False, Phase.NEW)], None),
    ],
)
def test_the_next_step(candidates, step):
    assert next_step([Candidate(*candidate) for candidate in candidates]) == step


class World:
    """Versions of one model that go where the policy sends them; loads end well or badly, as drawn."""

    def __init__(self):
        self.versions = []  # [number, place, phase]
        self.wanted = set()
        self.place = 0

    def wants(self, version):
        number, place, phase = version
        return number in self.wanted and place == self.place and phase is not Phase.UNLOADING

    def want(self, numbers, place):
        self.wanted, self.place = numbers, place
        begun = {Phase.LOADING, Phase.READY, Phase.UNLOADING}
        self.versions = [v for v in self.versions if self.wants(v) or v[2] in begun]
        have = {v[0] for v in self.versions if self.wants(v)}
        self.versions += [[number, place, Phase.NEW] for number in sorted(numbers - have)]

    def step(self):
        step = next_step([Candidate(v[0], self.wants(v), v[2]) for v in self.versions])
        if step is None:
            return False
        action, index = step
        version = self.versions[index]
        others = [v for v in self.versions if v is not version and v[2] is Phase.READY]
        if action == "unload":
            assert not self.wants(version)
            assert version[2] is Phase.READY
            assert others or not self.wanted, "the last version that answers was taken away"
            version[2] = Phase.UNLOADING
        else:
            assert self.wants(version)
            assert version[2] is Phase.NEW
            version[2] = Phase.LOADING
            in_memory = sum(v[2] in IN_MEMORY for v in self.versions)
            assert in_memory <= len(self.wanted) + 1
        return True

    def finish(self, version, *, well):
        if version[2] is Phase.UNLOADING:
            self.versions.remove(version)
        elif not well and self.wants(version):
            version[2] = Phase.FAILED
        elif not self.wants(version) and (not well or any(v[2] is Phase.READY for v in self.versions)):
            self.versions.remove(version)
        else:
            for other in self.versions:
                if other[0] == version[0] and other[2] is Phase.READY:
                    other[2] = Phase.UNLOADING
            version[2] = Phase.READY

    def pending(self):
        return [v for v in self.versions if v[2] in {Phase.LOADING, Phase.UNLOADING}]


@given(st.data())
def test_whatever_happens_something_answers_and_in_the_end_what_is_wanted_does(data):
    world = World()
    for _ in range(data.draw(st.integers(1, 6))):
        world.want(data.draw(st.sets(st.integers(0, 6), max_size=4)), data.draw(st.integers(0, 1)))
        for _ in range(data.draw(st.integers(0, 8))):
            while world.step():
                pass
            if pending := world.pending():
                answered = any(v[2] is Phase.READY for v in world.versions)
                world.finish(data.draw(st.sampled_from(pending)), well=data.draw(st.booleans()))
                assert not answered or any(v[2] is Phase.READY for v in world.versions)
    failed = {v[0] for v in world.versions if world.wants(v) and v[2] is Phase.FAILED}
    while True:
        while world.step():
            pass
        if not (pending := world.pending()):
            break
        world.finish(pending[0], well=True)
    ready = {v[0] for v in world.versions if world.wants(v) and v[2] is Phase.READY}
    assert ready == world.wanted - failed
    if ready == world.wanted:
        assert all(world.wants(v) for v in world.versions)
