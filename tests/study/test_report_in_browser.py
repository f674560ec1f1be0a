"""A report as a browser lays it out: on a telephone and on a desk nothing is wider than the page. Only where Chromium is installed."""

import json
import re
import shutil
import subprocess

import pytest

from dsrun.inspection import open_runs
from dsrun.study.report import make_report, write_report
from tests.study.run_folders import write_run_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (320, 400, 1280)
# A report allows no script in itself, so a page around it looks into frames of the widths to be tested.
LOOK = """<!DOCTYPE html><body>{frames}<pre id="found"></pre><script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, width = page.documentElement.clientWidth;
    const wide = [...page.querySelectorAll("body *")].filter(one => (one.matches(".scroll") || !one.closest(".scroll"))
      && one.getBoundingClientRect().width > 1 && one.getBoundingClientRect().right > width + 1);
    const pictures = [...page.querySelectorAll("figure img")].map(image => image.currentSrc.length);
    return {{scroll: page.documentElement.scrollWidth, client: width, wide: wide.slice(0, 5).map(one => one.outerHTML.slice(0, 200)),
      pictures, drawn: [...page.images].every(image => image.complete && image.naturalWidth > 0)}};
  }});
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_nothing_is_wider_than_the_page_on_a_telephone_and_on_a_desk(tmp_path):
    name = "averylongnamewithoutanyblankinit" * 3
    for seed in (1, 2):
        write_run_folder(
            tmp_path / "runs" / f"plain-{seed}", config={"seed": seed}, texts={"test": [("u", "a b", "a c")]}
        )
    config = {"arithmetic.storage.format": "float16", "arithmetic.master.format": "none", "features.kind": name}
    write_run_folder(tmp_path / "runs" / name, config=config, texts={"test": [("u", "a b", "a b")]})
    page = tmp_path / "report.html"
    write_report(make_report(open_runs([tmp_path / "runs"]), title=name), page)
    frames = "".join(f'<iframe src="report.html" width="{width}" height="900"></iframe>' for width in WIDTHS)
    (tmp_path / "look.html").write_text(LOOK.format(frames=frames))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--virtual-time-budget=20000",
    ]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", str(tmp_path / "look.html")]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=180).stdout
    found = json.loads(
        re.search(r'<pre id="found">(.+?)</pre>', dom, re.S)[1]
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
    )
    for width, one in zip(WIDTHS, found, strict=True):
        assert one["client"] <= width
        assert one["scroll"] <= one["client"], one["wide"]
        assert one["wide"] == []
        assert one["drawn"]
    assert found[0]["pictures"] == found[1]["pictures"]
    assert all(a != b for a, b in zip(found[1]["pictures"], found[2]["pictures"], strict=True))
