"""Follows a run in Chromium: a finished trial appears on the page within two seconds of its record.

    python checks/serve.py target/release/nettriage STUDY.toml

Needs the package `playwright` and Chromium (path in CHROMIUM, default /usr/bin/chromium).
"""

import http.client
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
MAX_DELAY_SECONDS = 2.0


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def request(address, path, host=None, method="GET"):
    """Status and body of the response; the path is sent unchanged, without normalising its dots."""
    connection = http.client.HTTPConnection(*address.split(":"))
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or address)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read().decode()


def check_access(address):
    """The server answers its four paths only, listens on loopback only, and accepts no other method than GET."""
    for path in ("/plan.json", "/../plan.json", "/%2e%2e/plan.json", "/report/../../etc/passwd", "//etc/passwd", "/trials", "/report?file=/etc/passwd"):
        status, body = request(address, path)
        require(status in (404, 405) or "report?" in path, f"{path}: {status}")
        require("root:" not in body, path)
    for method in ("POST", "PUT", "DELETE"):
        require(request(address, "/report", method=method)[0] == 405, method)
    require(request(address, "/status.json", host="evil.example")[0] == 403, "a foreign host name is accepted")
    listening = pathlib.Path("/proc/net/tcp").read_text()
    port = f"{int(address.split(':')[1]):04X}"
    require(f"0100007F:{port}" in listening and f"00000000:{port}" not in listening, "the server listens on more than loopback")


def until(page, script, seconds=15.0):
    """Polls from outside, because the page's content security policy forbids `eval`."""
    begin = time.monotonic()
    while not page.evaluate(script):
        require(time.monotonic() - begin < seconds, f"not within {seconds} s: {script}")
        time.sleep(0.02)


def files(run):
    return {str(path): path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: serve.py NETTRIAGE STUDY.toml")
    program, study = str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = pathlib.Path(folder) / "run"
        subprocess.run([program, "run", study, "--out", str(run), "--max-trials", "1"], check=True, capture_output=True)
        # Background jobs of a shell ignore SIGINT, and their children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        server = subprocess.Popen([program, "serve", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True)
        try:
            line = server.stdout.readline()
            url = line.split(" at ")[1].split(" ")[0]
            address = url.removeprefix("http://").rstrip("/")
            check_access(address)

            # A reader does not repair or remove a truncated record.
            truncated = next((run / "trials").glob("*.json"))
            complete = truncated.read_bytes()
            truncated.write_bytes(complete[: len(complete) // 2])
            before = files(run)
            urllib.request.urlopen(url + "report").read()
            require(files(run) == before, "reading changed a file")
            truncated.write_bytes(complete)

            browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            problems = []
            page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda request: problems.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None)
            page.goto(url)
            page.wait_for_selector("iframe:not(.next)", state="attached")
            until(page, "document.getElementById('counts').textContent.startsWith('1 of ')")

            # Five trials, one at a time: the delay from the record to the page.
            delays = []
            for index in range(1, 6):
                subprocess.run([program, "trial", "--plan", str(run), "--index", str(index)], check=True, capture_output=True)
                record = max((run / "trials").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
                page.wait_for_selector(f"#latest li[data-id='{record.stem}']", timeout=5000)
                until(page, f"document.getElementById('counts').textContent.startsWith('{index + 1} of ')")
                delays.append(time.time() - record.stat().st_mtime)
            require(max(delays) < MAX_DELAY_SECONDS, f"too late: {delays}")

            # The report is updated too, until the run is complete.
            subprocess.run([program, "run", study, "--out", str(run), "--max-trials", "40"], check=True, capture_output=True)
            until(page, "document.getElementById('counts').textContent.startsWith('46 of ')")
            until(page, "[...document.querySelectorAll('iframe:not(.next)')].some(f => f.contentDocument.body.textContent.includes('46 of '))")
            report = page.frame_locator("iframe:not(.next)").first
            require(report.locator("section#matrix").count() == 1, "the report is incomplete")
            server.send_signal(signal.SIGINT)
            server.wait(timeout=10)
            until(page, "document.getElementById('link').textContent.startsWith('not connected')")
            problems = [problem for problem in problems if "ERR_" not in problem]
            require(problems == [], problems)
            browser.close()
            print(f"seconds from a record to the page: {', '.join(f'{delay:.2f}' for delay in delays)}")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
