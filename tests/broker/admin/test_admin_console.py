"""The console in a real browser."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from admin_parties import add_admin, make_token
from broker_parties import GRANT, OTHER_ENCLAVE, Place, ask, make_place, new_identity
from browser_parties import Thread, broker_thread, browser, page_of

from sealserve.broker import audit
from sealserve.broker.client import BrokerRefusedError
from sealserve.broker.store import GrantDocument
from sealserve.ratls import TlsIdentity

pytestmark = pytest.mark.slow

VIEWS = ("overview", "decisions", "keys", "policies", "grants", "audit")
EVIL = "<img src=x onerror=document.title='broken'><script>document.title='broken'</script>\" onload='x' {{7*7}}"


class Scene:
    """A broker that runs, a browser, and whoever asks for keys."""

    def __init__(self, place: Place, thread: Thread, chromium: Any, identity: TlsIdentity) -> None:
        self.place, self.thread, self.chromium, self.identity = place, thread, chromium, identity
        self.viewer = make_token(place, "viewer", name="victor")

    def ask(self, **options: Any) -> None:
        self.thread.run(ask(self.place, self.thread.broker, self.identity, **options))

    def refuse(self, **options: Any) -> None:
        with pytest.raises(BrokerRefusedError):
            self.ask(**options)

    def sign_in(self, page: Any) -> None:
        page.goto(self.thread.url)
        page.fill("#token", self.viewer)
        page.press("#token", "Enter")
        page.wait_for_selector("#tabs:visible")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with browser() as chromium:
        place = make_place(tmp_path_factory.mktemp("console"))
        add_admin(place)
        with broker_thread(place) as thread:
            scene = Scene(place, thread, chromium, new_identity(place))
            scene.ask()
            scene.refuse(attester=place.attester(OTHER_ENCLAVE))
            yield scene


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained of. A test that provokes some takes them out."""
    return []


@pytest.fixture
def page(scene: Scene, complaints: list[str]) -> Iterator[Any]:
    outside: list[str] = []
    with page_of(scene.chromium, outside=outside, errors=complaints, viewport={"width": 1200, "height": 900}) as page:
        yield page
    assert outside == []
    assert [text for text in complaints if "status of 401" not in text] == []


def test_signing_in_needs_a_token_and_signing_out_forgets_it(scene: Scene, page: Any) -> None:
    page.goto(scene.thread.url)
    page.wait_for_selector("#sign-in:visible")
    assert page.evaluate("document.activeElement.id") == "token"
    page.fill("#token", "wrong")
    page.press("#token", "Enter")
    page.wait_for_selector("#trouble:visible")
    assert page.evaluate("sessionStorage.length") == 0
    scene.sign_in(page)
    page.wait_for_selector("#health.good")
    assert page.inner_text("#who").startswith("token:victor#")
    assert scene.viewer not in page.content()
    assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]
    assert "sealserve_" not in page.url
    page.click("#sign-out")
    page.wait_for_selector("#sign-in:visible")
    assert page.evaluate("sessionStorage.length") == 0
    assert page.query_selector_all("#view *") == []


def test_the_overview_shows_the_fleet_its_tcb_and_its_health(scene: Scene, page: Any) -> None:
    scene.sign_in(page)
    text = page.wait_for_selector(".tiles") and page.inner_text("#view")
    for told in (
        "Decisions, last hour",
        "UpToDate",
        "simulated",
        "digits",
        "11111111",
        "in 30 days",
        "measurement-refused",
    ):
        assert told in text, told
    assert page.locator("svg.chart rect.granted").count() >= 1
    assert page.locator("svg.chart rect.refused").count() >= 1


def test_decisions_appear_as_they_happen(scene: Scene, page: Any) -> None:
    from playwright.sync_api import expect

    scene.sign_in(page)
    page.click("#tabs a[href='#decisions']")
    page.wait_for_selector("details")
    before = page.locator("details").count()
    scene.ask()
    scene.refuse(deployment="letters")
    expect(page.locator("details")).to_have_count(before + 2)
    newest = page.locator("details").first
    assert "letters" in newest.inner_text()
    assert "unknown-grant" in newest.inner_text()
    newest.locator("summary").press("Enter")
    record = [record for record in scene.place.records if record.get("deployment") == "letters"][-1]
    opened = newest.locator("dl").first.inner_text()
    assert record["decision"] in opened
    assert record["peer"] in opened
    granted = page.locator("details").nth(1)
    assert "wrap 3" in granted.inner_text()
    page.select_option("#outcome", "refused")
    expect(page.locator("summary .pill.good")).to_have_count(0)
    page.fill("#deployment", "absent")
    page.press("#deployment", "Tab")
    page.wait_for_selector("text=No such decision.")


def test_keys_policies_grants_and_the_audit_log_are_shown(scene: Scene, page: Any) -> None:
    scene.sign_in(page)
    wanted = {
        "keys": ("wrap", "second", "active", "digits"),
        "policies": ("insecure_accept_simulated_platform", "mrenclave", "for digits"),
        "grants": ("digits", "ab" * 32, "/models/digits", "threads"),
        "audit": ("grant-put", "token-create", "last hash"),
    }
    for name, told in wanted.items():
        page.click(f"#tabs a[href='#{name}']")
        for text in told:
            page.wait_for_selector(f"#view :text('{text}')")
        assert page.get_attribute("#tabs a[aria-current]", "href") == f"#{name}"
    page.click("text=Verify the whole log")
    page.wait_for_selector("#view .pill:text-is('whole')")


def test_what_a_stranger_says_is_text_and_nothing_else(scene: Scene, page: Any, complaints: list[str]) -> None:
    """An enclave that was refused chose some of these strings; here somebody chose all of them."""
    real = copy.deepcopy(scene.place.records[0])
    for name in ("sequence", "previous", "time", "hash"):
        real.pop(name, None)
    real["evidence"] |= {"tcb_status": EVIL, "root": EVIL, "mrenclave": EVIL, "advisory_ids": [EVIL]}
    real |= {
        "deployment": EVIL,
        "peer": EVIL,
        "decision": EVIL,
        "key_sha256": EVIL,
        "keys": [{"name": EVIL, "version": 1}],
    }
    refused = {"event": "decision", "outcome": "refused", "decision": "x", "peer": EVIL, "reason": EVIL, "detail": EVIL}
    change = {"event": "change", "action": EVIL, "actor": EVIL, "key": EVIL, "version": EVIL, "policy": EVIL}
    with scene.place.store() as store:
        store.append_audit([real, {**refused, "deployment": EVIL, EVIL: {EVIL: EVIL}, "protocol": 2}, change])
    scene.sign_in(page)
    for view in VIEWS:
        page.click(f"#tabs a[href='#{view}']")
        page.wait_for_selector("#view .panel")
        page.wait_for_timeout(150)
        for row in page.locator("summary").all()[:3]:
            row.press("Enter")
        assert "broken" not in page.title()
        assert page.locator("#view img, #view script, #view [onerror], #view [onload]").count() == 0, view
    page.click("#tabs a[href='#decisions']")
    page.wait_for_selector("details")
    assert EVIL in page.inner_text("#view")
    refusal = page.evaluate(
        "(() => { try { document.body.innerHTML = ''; return 'done' } catch (e) { return e.name } })()"
    )
    assert refusal == "TypeError", "the page's policy forbids markup from text"
    assert any("TrustedHTML" in text for text in complaints)
    complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_a_small_screen_and_the_keyboard(scene: Scene, scheme: str) -> None:
    outside: list[str] = []
    errors: list[str] = []
    options = {"viewport": {"width": 360, "height": 700}, "color_scheme": scheme}
    with page_of(scene.chromium, outside=outside, errors=errors, **options) as page:
        scene.sign_in(page)
        for view in VIEWS:
            page.focus(f"#tabs a[href='#{view}']")
            page.keyboard.press("Enter")
            page.wait_for_selector("#view .panel")
            page.wait_for_timeout(100)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
        ground, ink = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        assert (brightness(ground) > brightness(ink)) == (scheme == "light")
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button,a,input,select')]"
            ".filter(e => !(e.textContent.trim() || e.labels?.length)).length"
        )
        assert unnamed == 0


def brightness(colour: str) -> int:
    return sum(int(part) for part in colour.strip("rgba()").split(",")[:3])


def test_a_broker_that_goes_away_and_a_revoked_token_are_told(scene: Scene, page: Any, complaints: list[str]) -> None:
    scene.sign_in(page)
    page.wait_for_selector(".tiles")
    page.context.set_offline(True)
    page.wait_for_selector("#health:text('no answer')")
    page.context.set_offline(False)
    page.wait_for_selector("#health:text('ready')")
    page.evaluate("sessionStorage.setItem('token', 'sealserve_000000000000_' + 'A'.repeat(43))")
    page.wait_for_selector("#sign-in:visible")
    assert "not known" in page.inner_text("#trouble")
    complaints[:] = [text for text in complaints if "ERR_INTERNET_DISCONNECTED" not in text]


@pytest.mark.skipif("SEALSERVE_SCREENSHOTS" not in os.environ, reason="SEALSERVE_SCREENSHOTS names no directory")
def test_screenshots_for_the_documentation(scene: Scene, tmp_path: Path) -> None:
    directory = Path(os.environ["SEALSERVE_SCREENSHOTS"])
    place = make_place(tmp_path)
    add_admin(place)
    with place.administration() as administration:
        administration.rotate_key("wrap")
        letters = GRANT | {"deployment": "letters", "keys": {"wrap": 4}, "model": {**GRANT["model"], "name": "letters"}}  # type: ignore[dict-item]
        administration.put_grant(GrantDocument.model_validate(letters))
        administration.create_key("reports")
        administration.rotate_key("reports")
        administration.retire_key("reports", 1, grace=timedelta(days=3))
    with broker_thread(place) as thread:
        chromium = scene.chromium
        scene = Scene(place, thread, chromium, new_identity(place))
        scene.ask()
        scene.refuse(attester=place.attester(OTHER_ENCLAVE))
        scene.refuse(deployment="numbers")
        fleet(place)
        for name, view, scheme, width, height in (
            ("overview", "overview", "light", 1120, 1010),
            ("decisions", "decisions", "dark", 1120, 620),
            ("phone", "overview", "light", 360, 720),
        ):
            options = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
            with page_of(chromium, outside=[], errors=[], **options) as page:
                scene.sign_in(page)
                page.click(f"#tabs a[href='#{view}']")
                page.wait_for_selector("details")
                page.wait_for_timeout(500)
                if view == "decisions":
                    page.locator("summary", has_text="measurement-refused").first.click()
                page.screenshot(path=str(directory / f"console-{name}.png"))


def fleet(place: Place) -> None:
    """An hour of a larger fleet, made of one real decision; its times are put back."""
    granted, refused = place.records[0], place.records[1]
    now, hour = datetime.now(UTC), []
    for minute in range(59, 0, -1):
        for number in range(3 + minute * 7 % 5):
            replica = (minute * 3 + number) % 9
            record = copy.deepcopy(granted if (minute * 5 + number) % 17 else refused)
            letters = replica > 5 and record["outcome"] == "granted"
            record |= {
                "peer": f"10.0.3.{17 + replica}:{40000 + minute * 31 + number}",
                "decision": f"{minute:08x}{number:08x}",
                "key_sha256": f"{replica:064x}",
                "deployment": "letters" if letters else "digits",
            }
            if letters:
                record |= {"keys": [{"name": "wrap", "version": 4}], "model": {**record["model"], "name": "letters"}}
            if replica == 7 and record["outcome"] == "granted":
                record["evidence"] |= {"tcb_status": "SWHardeningNeeded", "advisory_ids": ["INTEL-SA-00615"]}
            for name in ("sequence", "previous", "time", "hash"):
                record.pop(name, None)
            hour.append((now - timedelta(minutes=minute, seconds=number), record))
    times = iter([time for time, _ in hour])
    with mock.patch.object(audit, "datetime") as clock, place.store() as store:
        clock.now.side_effect = lambda _zone: next(times, now)
        store.append_audit([record for _, record in hour])
