"""Opens a report in headless Chromium: look_at_report.py REPORT [PICTURE].

The page must load nothing, have all its tables and figures without JavaScript, fit its width, be neither
blank in light nor in dark, and make a PDF of several pages.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.image
import numpy as np

NAMES = ["chromium", "chromium-browser", "google-chrome", "chrome"]


def main():
    report = Path(sys.argv[1]).resolve()
    text = report.read_text()
    assert not re.search(r"<script|<link|<iframe|<img|@import|url\(", text), "the page loads something"
    # Whatever a name in a recording holds, the page's own policy lets nothing run and nothing load.
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text
    assert not re.search(r"""(src|href)=["'](?!#)""", text), "the page points outside"
    figures, tables = text.count("<svg "), text.count("<table>")
    assert figures >= 4 and tables >= 6, (figures, tables)
    assert text.count("</desc>") == figures and text.count('role="img"') == figures
    assert text.count("<caption>") == tables and text.count('scope="row"') > tables
    browser = next((found for found in map(shutil.which, NAMES) if found), None)
    if browser is None:
        sys.exit("no Chromium here to look at the report with (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as scratch:
        base = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={scratch}/p",
                "--blink-settings=preferredColorScheme=1"]
        url = report.as_uri()

        def run(*flags):
            done = subprocess.run([*base, *flags, url], capture_output=True, timeout=120, text=True)
            assert done.returncode == 0, done.stderr
            return done

        dark = {}
        for name, value in (("dark", 0), ("light", 1)):
            shot = Path(scratch) / f"{name}.png"
            base[-1] = f"--blink-settings=preferredColorScheme={value}"
            run("--window-size=1200,3000", f"--screenshot={shot}")
            picture = matplotlib.image.imread(shot)[..., :3]
            assert picture.std() > 0.05, f"the page is blank in {name}"
            dark[name] = float(np.median(picture))
            if len(sys.argv) > 2:
                shutil.copy(shot, f"{sys.argv[2]}-{name}.png")
        assert dark["dark"] < 0.3 and dark["light"] > 0.9, dark
        pdf = Path(scratch) / "report.pdf"
        run(f"--print-to-pdf={pdf}")
        pages = pdf.read_bytes().count(b"/Type /Page\n") or pdf.read_bytes().count(b"/Type /Page")
        assert pages > 2, pages
    print(f"report in {Path(browser).name}: {figures} figures, {tables} tables, light, dark and print")


if __name__ == "__main__":
    main()
