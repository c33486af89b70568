"""The status page in a real browser, watching a real cluster.

Needs Debian's chromium and chromedriver (`apt-get install chromium chromium-driver`), and installs nothing by itself.
"""

import http.server
import re
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from app.wire.protocol import PUT, slot_of
from tests.integration.http_nodes import is_settled, status, url, watched_cluster
from tests.support.nodes import Node
from tests.support.polling import poll

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# The page asks each second, and a killed node is out of the view within a fraction of one; a crowded machine may
# take longer for either.
SHOWN_S = 15.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1360,900",
)
WIDTHS = (320, 390, 721, 768, 881, 1100, 1240, 1241, 1360, 1440)
CONTRAST_MIN = 4.5  # WCAG 2.2, 1.4.3
# Pairs of elements and the property that makes the text; their backgrounds are looked for upwards.
TEXTS = ("h1", "h2", ".quiet", ".badge", "button", "td", "th", "a", ".unit", "dt", "dd", "#slot-detail")

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver here: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    with watched_cluster(tmp_path_factory.mktemp("page"), 3) as nodes:
        yield nodes


class Browser:
    """Looks at one node's page."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        assert BROWSER is not None
        options.binary_location = BROWSER
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_page_load_timeout(60)

    def open(self, node: Node) -> None:
        self.driver.get(url(node))
        self.until("members", lambda: self.text("#members-count").endswith("of 3"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def texts(self, selector: str) -> list[str]:
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector))

    def until(self, what: str, condition: Callable[[], bool], deadline_s: float = SHOWN_S) -> None:
        poll(condition, deadline_s, lambda: f"{what}; the page says:\n{self.text('body')}\n{self.complaints()}")

    def state_of(self, node: Node) -> str:
        """What the members' table says of it."""
        rows = zip(self.texts("#members .node-name"), self.texts("#members .badge"), strict=True)
        return next(state for name, state in rows if name.startswith(node.name))

    def labels(self) -> list[str]:
        """What each slot of the ring is called, in their order."""
        script = """return [...document.querySelectorAll('.wedge')].sort((a, b) => a.dataset.slot - b.dataset.slot)
            .map(wedge => wedge.getAttribute('aria-label'))"""
        return list(self.run(script))

    def complaints(self) -> list[str]:
        """What the console has had to say since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def sticking_out(self) -> list[str]:
        """What is wider than the window."""
        script = """return [...document.querySelectorAll('main *, header *')].filter(element => {
            const box = element.getBoundingClientRect();
            return box.width && box.right > innerWidth + 1 && !element.closest('thead');
        }).map(element => element.tagName + '.' + element.getAttribute('class'))"""
        return list(self.run(script))

    def emulate(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def size(self, width: int, height: int = 900, *, mobile: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        yield browser
    finally:
        browser.driver.quit()


@pytest.fixture
def page(shared: Browser, nodes: list[Node]) -> Iterator[Browser]:
    """The first node's page, freshly loaded; it must have had no reason to complain."""
    shared.complaints()
    shared.size(1360)
    shared.emulate("light")
    shared.open(nodes[0])
    yield shared
    assert shared.complaints() == []


def test_it_shows_every_slot_and_every_member(page: Browser, nodes: list[Node]) -> None:
    told = status(nodes[0])
    assert page.text("#ready") == "✓ ready"
    assert "cluster whole" in page.text("#facts")
    assert page.run("return document.getElementById('faults').hidden")
    assert page.text("#address") == nodes[0].name
    assert [page.state_of(node) for node in nodes] == ["✓ alive"] * 3
    expected = []
    for slot, primary in enumerate(told["slots"]["primary"]):
        member = told["members"][primary]
        expected.append(f"slot {slot}. Primary: node {member['line'] + 1} ({member['address']}). Backups: ")
    labels = page.labels()
    assert [label.partition("Backups: ")[0] + "Backups: " for label in labels] == expected
    colours = page.run(
        "return [...document.querySelectorAll('.wedge')].map(w => [w.ariaLabel.split(')')[0].split('Primary')[1],"
        " getComputedStyle(w).fill])"
    )
    assert len({colour for _, colour in colours}) == len({tuple(pair) for pair in colours}) == 3


def test_it_asks_nobody_but_its_node(page: Browser, nodes: list[Node]) -> None:
    fetched = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert set(fetched) <= {url(nodes[0], "/status.json")} | {name for name in fetched if name.startswith("data:")}
    # Whatever came into the page, its policy would let nothing be loaded from elsewhere.
    page.run("const i = new Image(); i.src = 'http://127.0.0.2:1/x'; document.body.append(i)")
    page.until("the refusal", lambda: any("Content Security Policy" in line for line in page.complaints()))


class StrippingProxy(http.server.BaseHTTPRequestHandler):
    """What is below /kv/ comes from the node, as if it were at its root."""

    node_url = ""

    def do_GET(self) -> None:
        if not self.path.startswith("/kv/"):
            self.send_error(404)
            return
        with urllib.request.urlopen(self.node_url + self.path.removeprefix("/kv/"), timeout=SHOWN_S) as answer:
            body = answer.read()
            self.send_response(answer.status)
            for name in ("Content-Type", "Content-Security-Policy", "Cross-Origin-Resource-Policy"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_it_works_below_a_path_of_a_proxy(page: Browser, nodes: list[Node]) -> None:
    handler = type("Proxy", (StrippingProxy,), {"node_url": url(nodes[0])})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever).start()
        try:
            place = f"http://127.0.0.1:{proxy.server_port}/kv/"
            page.driver.get(place)
            page.until("members", lambda: page.text("#members-count") == "3 alive of 3")
            fetched = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
            assert {name for name in fetched if not name.startswith("data:")} == {place + "status.json"}
            links = page.run("return [...document.querySelectorAll('footer a')].map(link => link.href)")
            assert links == [place + name for name in ("metrics", "slowlog", "status.json", "ready", "docs")]
        finally:
            page.driver.get("about:blank")
            proxy.shutdown()


def test_it_refreshes_by_itself_and_can_be_held(page: Browser, nodes: list[Node]) -> None:
    before = sum(member["vitals"]["entries"] for member in status(nodes[0])["members"] if member["me"])
    told = status(nodes[0])
    me = next(place for place, member in enumerate(told["members"]) if member["me"])
    keys = [key for key in (b"%d" % n for n in range(2000)) if told["slots"]["primary"][slot_of(key)] == me][:25]
    for key in keys:
        poll(lambda key=key: nodes[0].ask(PUT, key=key, value=b"v") is not None, SHOWN_S)  # type: ignore[misc]
    page.until("the entries", lambda: page.text("#memory-parts dd:nth-of-type(3)") == str(before + len(keys)))
    page.driver.find_element(By.ID, "pause").click()
    assert page.text("#pause") == "Go on"
    page.run("performance.clearResourceTimings()")
    page.driver.find_element(By.ID, "pause").click()
    page.until("polls", lambda: page.run("return performance.getEntriesByType('resource').length") > 1)


def test_copies_by_keyboard(page: Browser) -> None:
    labels = page.labels()
    body = page.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)  # the button
    for _ in range(10):
        if page.run("return document.activeElement.id") == "wedges":
            break
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert page.run("return document.activeElement.id") == "wedges"
    keys = [(Keys.ARROW_RIGHT, 1), (Keys.PAGE_DOWN, 17), (Keys.ARROW_LEFT, 16), (Keys.END, 255), (Keys.ARROW_DOWN, 0)]
    for key, slot in keys:
        ActionChains(page.driver).send_keys(key).perform()
        assert page.run("return document.activeElement.getAttribute('aria-activedescendant')") == f"slot-{slot}"
        assert page.text("#centre-1") == f"slot {slot}"
        said = page.text("#slot-detail").replace(". ", " ").strip(" .")
        assert said == labels[slot].replace("slot", "Slot", 1).replace(". ", " "), "what is shown is what is read out"
    outline = page.run("return getComputedStyle(document.querySelector('.wedge.chosen')).strokeWidth")
    assert outline == "4px", "the focus shows"
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    assert page.text("#centre-1") == "256"


def test_copies_by_mouse_and_by_touch(page: Browser) -> None:
    for slot in (3, 200):
        ActionChains(page.driver).move_to_element(page.driver.find_element(By.ID, f"slot-{slot}")).perform()
        page.until(f"slot {slot}", lambda slot=slot: page.text("#centre-1") == f"slot {slot}")  # type: ignore[misc]
        assert f"Slot {slot}. Primary: node " in page.text("#slot-detail")
    ActionChains(page.driver).move_to_element(page.driver.find_element(By.ID, "address")).perform()
    page.until("the ring at rest", lambda: page.text("#centre-1") == "256")
    place = page.run(
        "const b = document.getElementById('slot-64').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]"
    )
    for kind, points in (("touchStart", [{"x": place[0], "y": place[1]}]), ("touchEnd", [])):
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.until("slot 64", lambda: page.text("#centre-1") == "slot 64")


def test_the_slot_of_a_key(page: Browser) -> None:
    field = page.driver.find_element(By.ID, "find-key")
    for key in ("greeting", "schlüssel", "x" * 32):
        field.clear()
        field.send_keys(key)
        slot = slot_of(key.encode())
        assert page.text("#find-slot") == f"slot {slot}"
        assert page.text("#centre-1") == f"slot {slot}"
    field.clear()
    field.send_keys("ü" * 17)
    assert page.text("#find-slot") == "over 32 bytes"


def test_a_member_lights_its_slots(page: Browser, nodes: list[Node]) -> None:
    told = status(nodes[0])
    row = page.driver.find_elements(By.CSS_SELECTOR, "#members tbody tr")[1]
    ActionChains(page.driver).move_to_element(row).perform()
    page.until("node 2", lambda: page.text("#centre-1") == "node 2")
    lit = page.run("return document.querySelectorAll('.wedge.lit').length")
    assert lit == next(member["primary"] for member in told["members"] if member["line"] == 1)
    ActionChains(page.driver).move_to_element(page.driver.find_element(By.ID, "address")).perform()


def test_the_cluster_is_summed_up(page: Browser, nodes: list[Node]) -> None:
    page.until("all members", lambda: page.text("#cluster-count") == "3 of 3 tell")
    page.until("a rate", lambda: page.texts("#cluster dt + dd")[0] != "\N{EN DASH}")
    slots = [member["primary"] for member in status(nodes[0])["members"]]
    assert page.texts("#cluster dt + dd")[5] == f"{min(slots)} \N{EN DASH} {max(slots)}"


def test_members_are_sorted_by_any_column(page: Browser, nodes: list[Node]) -> None:
    def shown() -> list[str]:
        return [name.split()[0] for name in page.texts("#members .node-name")]

    def sort_of(name: str) -> str:
        return str(
            page.run("return document.querySelector(arguments[0]).closest('th').ariaSort", f"[data-sort={name}]")
        )

    names = [node.name for node in nodes]
    assert (shown(), sort_of("node")) == (names, "ascending")
    page.run("document.querySelector('[data-sort=node]').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert (shown(), sort_of("node")) == (names[::-1], "descending")
    page.run("document.querySelector('[data-sort=primary]').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.SPACE)
    assert (sort_of("node"), sort_of("primary")) == ("none", "descending")
    assert page.texts("#members .cell-primary") == sorted(page.texts("#members .cell-primary"), key=int, reverse=True)
    page.size(390, mobile=True)
    page.run("const s = document.getElementById('sort'); s.value = 'node'; s.dispatchEvent(new Event('change'))")
    assert shown() == names
    page.driver.find_element(By.ID, "sort-turn").click()
    assert shown() == names[::-1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_in_dark(page: Browser, scheme: str) -> None:
    page.emulate(scheme)
    script = """
        const behind = element => {
          for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor;
            if (colour !== 'rgba(0, 0, 0, 0)') return colour;
          }
        };
        return arguments[0].flatMap(selector => [...document.querySelectorAll(selector)].map(
          element => [selector, getComputedStyle(element).color, behind(element)]))
    """
    found = page.run(script, TEXTS)
    assert {selector for selector, _, _ in found} == set(TEXTS)
    for selector, ink, ground in found:
        assert contrast(ink, ground) >= CONTRAST_MIN, f"{selector}: {ink} on {ground}"
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) > 0.5) == (scheme == "light")


def luminance(colour: str) -> float:
    """Relative luminance of rgb(...), as WCAG defines it."""
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(ink: str, ground: str) -> float:
    lighter, darker = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_at_any_width(page: Browser, width: int) -> None:
    page.size(width, mobile=width < 700)
    page.until("the width", lambda: page.run("return innerWidth") == width)
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.sticking_out() == []


# The longest that a member may have to show, by cell.
LONG = {
    "state": "? suspected",
    "entries": "1,234,567",
    "rate": "123,456",
    "hits": "100.0 %",
    "p99": "1234 ms",
    "up": "365 days",
    "version": "0.10.2.dev0",
}


@pytest.mark.parametrize("width", WIDTHS)
def test_no_value_of_a_member_runs_into_another_or_out_of_its_card(page: Browser, width: int) -> None:
    page.size(width, mobile=width < 700)
    page.until("the width", lambda: page.run("return innerWidth") == width)
    script = """
        document.getElementById('pause').click();
        const row = document.querySelector('#members tbody tr');
        for (const [name, text] of Object.entries(arguments[0])) {
          const cell = row.querySelector(`.cell-${name}`);
          (cell.querySelector('.badge') || cell).textContent = text;
        }
        const card = row.closest('.card');
        const edge = card.getBoundingClientRect().right - parseFloat(getComputedStyle(card).paddingRight);
        const boxes = [], over = [];
        for (const cell of row.cells) {
          const range = document.createRange();
          range.selectNodeContents(cell);
          if (cell.scrollWidth > cell.clientWidth) over.push(`${cell.className} overflows`);
          const badges = [...cell.querySelectorAll('.badge')].map(badge => badge.getBoundingClientRect());
          for (const box of [...range.getClientRects(), ...badges])
            boxes.push([cell.className, box.left, box.right, box.top, box.bottom]);
        }
        over.push(...boxes.filter(box => box[2] > edge + 0.5).map(box => `${box[0]} is ${box[2] - edge} px out`));
        for (const [one, left, right, top, bottom] of boxes)
          for (const [other, left2, right2, top2, bottom2] of boxes)
            if (one < other && left < right2 + 3 && left2 < right + 3 && top < bottom2 && top2 < bottom)
              over.push(`${one} runs into ${other}`);
        document.getElementById('pause').click();
        return [...new Set(over)];
    """
    assert "\n".join(page.run(script, LONG)) == ""


def test_every_part_has_a_name_for_who_does_not_see_it(page: Browser) -> None:
    unnamed = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {}
    for node in unnamed:
        role = node.get("role", {}).get("value")
        roles.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "listbox", "option", "textbox", "meter", "table", "link"):
        assert roles.get(role), f"no {role}"
        if role != "table":
            assert all(roles[role]), f"a {role} without a name"
    assert len(roles["option"]) == 256
    assert sum("per second" in name for name in roles.get("image", roles.get("img", []))) == 1


def test_a_node_that_dies_is_seen_to_die_and_to_come_back(page: Browser, nodes: list[Node]) -> None:
    victim = nodes[2]
    assert any(victim.name in label for label in page.labels())
    victim.kill()
    page.until("its death", lambda: page.state_of(victim) in ("✕ dead", "○ absent"))
    page.until("its absence", lambda: page.state_of(victim) == "○ absent")
    page.until("the ring without it", lambda: not any(victim.name in label for label in page.labels()))
    assert page.text("#members-count") == "2 alive of 3"
    page.until("what is missing", lambda: page.text("#centre-3") == "256 copies missing")
    sentence = f"2 of 3 copies each: 1 server absent ({victim.name})"
    page.until("why", lambda: page.texts("#faults li") == [sentence])
    assert page.run("return document.getElementById('faults').className") == "banner lacking"
    assert page.sticking_out() == []
    page.until("the change", lambda: f"\N{MINUS SIGN} {victim.name}" in page.text("#changes li:first-child"))
    assert page.text("#ready") == "✓ ready"
    victim.start()
    page.until("its return", lambda: page.state_of(victim) == "✓ alive")
    page.until("its copies", lambda: page.text("#centre-3") == "all copies in sync")
    page.until("nothing wrong", lambda: page.run("return document.getElementById('faults').hidden"))
    poll(lambda: all(is_settled(node) for node in nodes), SHOWN_S)


def test_a_watched_node_that_dies_is_told(page: Browser, nodes: list[Node]) -> None:
    nodes[0].kill()
    page.until("the banner", lambda: page.run("return !document.getElementById('lost').hidden"))
    assert page.text("#lost").startswith("This node does not answer. What is shown is from ")
    assert page.text("#ready") == "✕ no answer"
    nodes[0].start()
    page.until("its return", lambda: page.text("#ready") == "✓ ready")
    assert page.run("return document.getElementById('lost').hidden")
    refused = [line for line in page.complaints() if "ERR_CONNECTION_REFUSED" not in line and "Failed" not in line]
    assert [line for line in refused if "503" not in line] == []
