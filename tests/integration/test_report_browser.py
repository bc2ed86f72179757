"""The report in a real browser: nothing is fetched, nothing complains, everything is within reach, wide and narrow."""

import asyncio
import base64
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cxrdist.report.sections import Findings
from cxrdist.report.write import write_report
from tests.unit.report_examples import small_results

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")

LINKS = """
[...document.querySelectorAll("a")].filter(a => !document.getElementById(a.getAttribute("href").slice(1))).length
"""
IMAGES = """
[...document.images]
  .filter(i => !(i.complete && i.naturalWidth > 0 && i.alt.length > 20))
  .map(i => i.outerHTML.slice(-80))
"""
CUT_OFF = """
[...document.querySelectorAll("main *")].filter(e => {
  if (e.closest(".scroll")) return false;
  const box = e.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map(e => e.tagName + " " + e.textContent.slice(0, 40))
"""


class Tab:
    """One page of a headless browser, over its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.sent = 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.sent += 1
        await self.socket.send_json({"id": self.sent, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json(timeout=60)
            if message.get("id") == self.sent:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    async def until(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(await self.socket.receive_json(timeout=60))

    async def evaluate(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"]["value"]


async def look_at(page: Path, width: int, port: int) -> dict[str, Any]:
    """Open a page at a width and return what there is to complain about, and a screenshot."""
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as response:
            target = await response.json(content_type=None)
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Network", "Runtime", "Log"):
                await tab.call(f"{domain}.enable")
            phone = width < 600
            await tab.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone
            )
            await tab.call("Page.navigate", url=page.as_uri())
            await tab.until("Page.loadEventFired")
            seen = {
                "dead links": await tab.evaluate(LINKS),
                "broken images": await tab.evaluate(IMAGES),
                "cut off": await tab.evaluate(CUT_OFF),
                "wider than the window": await tab.evaluate("document.documentElement.scrollWidth > innerWidth + 1"),
                "height": await tab.evaluate("document.documentElement.scrollHeight"),
                "screenshot": base64.b64decode((await tab.call("Page.captureScreenshot"))["data"]),
            }
            requests = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
            seen["requests"] = [url for url in requests if not url.startswith("data:")]
            complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
            seen["complaints"] = [event["params"] for event in tab.events if event["method"] in complaints]
            return seen


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """The port of a headless browser."""
    profile = tmp_path_factory.mktemp("profile")
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "DevTools listening on" in line:
                    yield int(line.split("127.0.0.1:")[1].split("/")[0])
                    break
            else:
                raise AssertionError("the browser did not start")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(Findings.of(small_results()), tmp_path_factory.mktemp("report"))[-1]


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_the_report_opens_whole_without_complaint_or_request(browser, page, width):
    seen = asyncio.run(look_at(page, width, browser))
    assert seen["requests"] == [page.as_uri()]
    assert seen["complaints"] == []
    assert seen["dead links"] == 0
    assert seen["broken images"] == []
    assert seen["cut off"] == []
    assert not seen["wider than the window"]
    assert seen["height"] > 3000
    assert seen["screenshot"].startswith(b"\x89PNG")


def test_a_page_with_faults_is_found_out(browser, tmp_path):
    page = tmp_path / "index.html"
    page.write_text(
        "<!DOCTYPE html><html><head><link rel=icon href='data:,'></head><body><main>"
        "<a href='#nowhere'>x</a><img src='missing.png' alt=''>"
        "<p style='width: 3000px'>wide</p></main><script>console.error('no')</script></body></html>"
    )
    seen = asyncio.run(look_at(page, 390, browser))
    assert len(seen["requests"]) == 2
    assert len(seen["complaints"]) == 2
    assert seen["dead links"] == 1
    assert len(seen["broken images"]) == 1
    assert seen["cut off"] == ["P wide"]
