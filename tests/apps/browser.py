"""Opens a page in headless Chromium at several widths and says what is there: browser.py PAGE.html FOLDER

One line of JSON: for each width the console's messages, requests, elements that are too wide, and the chart's rectangles.
Screenshots go to FOLDER. Speaks to chromedriver in its own protocol; exit status 3: there is no browser, and why.
"""
import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

WIDTHS = (1280, 400)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"]
LOOK = """
const wide = document.documentElement.clientWidth, text = (one) => one.getAttribute('data-variant');
const all = [...document.querySelectorAll('body *')];
return {
  title: document.title, width: wide, page: document.documentElement.scrollWidth,
  overflowing: all.filter((one) => { const box = one.getBoundingClientRect(); return box.right > wide + 0.5 || box.left < -0.5; })
    .map((one) => one.outerHTML.slice(0, 120)).slice(0, 8),
  small: all.filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .filter((one) => one.tagName !== 'title' && parseFloat(getComputedStyle(one).fontSize) < 12).map((one) => one.outerHTML.slice(0, 120)).slice(0, 8),
  requests: performance.getEntriesByType('resource').map((one) => one.name),
  scripts: document.querySelectorAll('script, iframe, object, embed, img, link:not([rel=icon])').length,
  unlabelled: [...document.querySelectorAll('svg')].filter((one) => one.getAttribute('role') !== 'img' || !one.getAttribute('aria-label')).length,
  bars: [...document.querySelectorAll('rect[data-value]')].map((one) => { const box = one.getBoundingClientRect();
    return {chart: one.closest('section').getAttribute('aria-labelledby'), variant: text(one), component: one.getAttribute('data-component'), value: parseFloat(one.getAttribute('data-value')),
            x: box.x, width: box.width, height: box.height, colour: getComputedStyle(one).fill}; }),
  means: Object.fromEntries([...document.querySelectorAll('.value[data-value]')].map((one) => [text(one), parseFloat(one.getAttribute('data-value'))])),
};
"""


def no_browser(reason):
    print(reason, file=sys.stderr)
    sys.exit(3)


@contextlib.contextmanager
def driver(folder):
    """The address of a chromedriver of our own."""
    for name in ("chromedriver", "chromium"):
        if not shutil.which(name):
            no_browser(f"there is no {name} (apt install chromium chromium-driver)")
    with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder) as child:
        try:
            heard = b""
            while b"on port" not in heard or b"successfully" not in heard.partition(b"on port")[2]:
                if not select.select([child.stdout], [], [], 30)[0] or not (data := os.read(child.stdout.fileno(), 4096)):
                    raise SystemExit(f"chromedriver does not start: {heard!r}")
                heard += data
            port = int(heard.rpartition(b"on port")[2].split()[0].rstrip(b"."))
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def ask(address, method="GET", **body):
    request = urllib.request.Request(address, json.dumps(body).encode() if method == "POST" else None, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return json.load(opener.open(request, timeout=60))["value"]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{address}: {error.read().decode()[:500]}") from error


def main():
    page, folder = sys.argv[1:]
    found = []
    with tempfile.TemporaryDirectory() as profile, driver(profile) as address:
        options = {"args": [*FLAGS, f"--user-data-dir={profile}/data"], "binary": shutil.which("chromium")}
        session = ask(f"{address}/session", "POST", capabilities={"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}})
        here = f"{address}/session/{session['sessionId']}"

        def devtools(command, **params):
            return ask(f"{here}/goog/cdp/execute", "POST", cmd=command, params=params)
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
                devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                ask(f"{here}/url", "POST", url=f"file://{os.path.abspath(page)}")
                seen = ask(f"{here}/execute/sync", "POST", script=LOOK, args=[])
                seen["console"] = ask(f"{here}/se/log", "POST", type="browser")
                picture = devtools("Page.captureScreenshot", captureBeyondViewport=True)
                with open(os.path.join(folder, f"report-{width}-{scheme}.png"), "wb") as file:
                    file.write(base64.b64decode(picture["data"]))
                found.append({"asked": width, "scheme": scheme, **seen})
        ask(here, "DELETE")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
