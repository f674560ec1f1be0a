"""A headless Chromium whose microphone is a file, driven over its debugging protocol.

    python -m tests.serving.browser MODEL RECORDING.wav FOLDER

records the file through the page of `dsrun serve MODEL`, sends it as a file too, prints both texts, and leaves screenshots in FOLDER.
"""

import argparse
import base64
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from websockets.sync.client import connect

from tests.serving.crowd import serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-port=0",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)


class Page:
    """A tab."""

    def __init__(self, socket, folder):
        self.socket, self.folder, self._number = socket, folder, 0
        self.complaints = []  # of the console

    def ask(self, method, **parameters):
        """One command's result."""
        self._number += 1
        self.socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv(timeout=60))).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _note(self, event):
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
        if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])

    def value(self, expression):
        """Of JavaScript, awaited."""
        found = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression, seconds=30):
        """Until it is true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"), self.complaints)
            time.sleep(0.05)

    def text(self, id):
        """Of an element."""
        return self.value(f"document.getElementById({id!r}).textContent")

    def open(self, url):
        """Load a page."""
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && health !== null")

    def press(self, key, code=None, number=0):
        """A key, as a keyboard sends it."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=code or key, windowsVirtualKeyCode=number, **text
            )

    def choose_file(self, path):
        """As a person would in the dialog."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def look(self, name, *, width=900, height=1000, scheme="light"):
        """A screenshot; returns how much wider the page is than the window."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        picture = self.ask("Page.captureScreenshot", format="png")["data"]
        (self.folder / f"{name}.png").write_bytes(base64.b64decode(picture))
        return self.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@contextmanager
def browser(recording, folder):
    """A tab whose microphone plays `recording` once."""
    profile = folder / "profile"
    command = [
        CHROMIUM,
        *OPTIONS,
        f"--use-file-for-fake-audio-capture={recording}%noloop",
        f"--user-data-dir={profile}",
    ]
    with subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file = profile / "DevToolsActivePort"
            for _ in range(600):
                if port_file.exists() and len(port_file.read_text().split()) == 2:
                    break
                time.sleep(0.1)
            port, path = port_file.read_text().split()
            with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None) as whole:
                target = Page(whole, folder).ask("Target.getTargets")["targetInfos"]
                id = next(one["targetId"] for one in target if one["type"] == "page")
            with connect(f"ws://127.0.0.1:{port}/devtools/page/{id}", max_size=None, compression=None) as tab:
                yield Page(tab, folder)
        finally:
            process.terminate()
            process.wait(20)


def record(page, seconds):
    """Start with the keyboard, listen so long, stop; the text, and what the status said on the way."""
    page.value("document.getElementById('record').focus()")
    page.press("Enter", number=13)
    page.wait_for("document.getElementById('record').getAttribute('aria-pressed') === 'true'")
    page.wait_for("Number(document.getElementById('level').getAttribute('aria-valuenow')) > 10")
    time.sleep(seconds)
    page.look("recording")
    status = page.text("status")
    page.press("Escape", number=27)
    page.wait_for("document.getElementById('status').textContent.includes(' of sound.')")
    return page.text("text"), status


def main():
    """For a model and a recording."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with serving(given.model) as (about, _, _), browser(given.recording, given.folder) as page:
        page.open(f"http://127.0.0.1:{about['port']}/")
        text, status = record(page, given.seconds)
        page.choose_file(given.recording.resolve())
        page.wait_for("document.getElementById('file-status').textContent.includes('recognised in')")
        wider = {
            name: page.look(name, width=width, scheme=scheme)
            for name, width, scheme in (("light", 900, "light"), ("dark", 900, "dark"), ("narrow", 400, "light"))
        }
        found = {"spoken": text, "status": status, "file": page.text("file-text"), "wider": wider}
        print(json.dumps(found | {"complaints": page.complaints}, indent=2))


if __name__ == "__main__":
    main()
