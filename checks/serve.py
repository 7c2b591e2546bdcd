"""Follows a run in real Chromium: a trial that ends shows within two seconds of its record.

    python checks/serve.py target/release/nettriage STUDY.toml

Needs the package `playwright` and a Chromium (path in CHROMIUM, default /usr/bin/chromium).
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
SECONDS = 2.0


def expect(truth, what):
    if not truth:
        raise AssertionError(what)


def answer(address, path, host=None, method="GET"):
    """Status and body of a request whose path goes as it is, dots and all."""
    connection = http.client.HTTPConnection(*address.split(":"))
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or address)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read().decode()


def closed(address, run):
    """Nothing but the four addresses is there, for nobody but this machine, and nothing can be changed."""
    for path in ("/plan.json", "/../plan.json", "/%2e%2e/plan.json", "/report/../../etc/passwd", "//etc/passwd", "/trials", "/report?file=/etc/passwd"):
        status, body = answer(address, path)
        expect(status in (404, 405) or "report?" in path, f"{path}: {status}")
        expect("root:" not in body, path)
    for method in ("POST", "PUT", "DELETE"):
        expect(answer(address, "/report", method=method)[0] == 405, method)
    expect(answer(address, "/status.json", host="evil.example")[0] == 403, "a foreign name")
    listening = pathlib.Path("/proc/net/tcp").read_text()
    port = f"{int(address.split(':')[1]):04X}"
    expect(f"0100007F:{port}" in listening and f"00000000:{port}" not in listening, "loopback alone")


def until(page, script, seconds=15.0):
    """Asked again and again from here: the page's policy lets nobody evaluate text inside it."""
    begin = time.monotonic()
    while not page.evaluate(script):
        expect(time.monotonic() - begin < seconds, f"never: {script}")
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
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        server = subprocess.Popen([program, "serve", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True)
        try:
            line = server.stdout.readline()
            url = line.split(" at ")[1].split(" ")[0]
            address = url.removeprefix("http://").rstrip("/")
            closed(address, run)

            # A record that is torn is left alone by who only reads.
            torn = next((run / "trials").glob("*.json"))
            whole = torn.read_bytes()
            torn.write_bytes(whole[: len(whole) // 2])
            before = files(run)
            urllib.request.urlopen(url + "report").read()
            expect(files(run) == before, "reading changes no file")
            torn.write_bytes(whole)

            browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            problems = []
            page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda request: problems.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None)
            page.goto(url)
            page.wait_for_selector("iframe:not(.next)", state="attached")
            until(page, "document.getElementById('counts').textContent.startsWith('1 of ')")

            # Trials one by one, each timed from its record to the page.
            delays = []
            for index in range(1, 6):
                subprocess.run([program, "trial", "--plan", str(run), "--index", str(index)], check=True, capture_output=True)
                record = max((run / "trials").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
                page.wait_for_selector(f"#latest li[data-id='{record.stem}']", timeout=5000)
                until(page, f"document.getElementById('counts').textContent.startsWith('{index + 1} of ')")
                delays.append(time.time() - record.stat().st_mtime)
            expect(max(delays) < SECONDS, f"too late: {delays}")

            # The report follows as well, and the whole run to its end.
            subprocess.run([program, "run", study, "--out", str(run), "--max-trials", "40"], check=True, capture_output=True)
            until(page, "document.getElementById('counts').textContent.startsWith('46 of ')")
            until(page, "[...document.querySelectorAll('iframe:not(.next)')].some(f => f.contentDocument.body.textContent.includes('46 of '))")
            report = page.frame_locator("iframe:not(.next)").first
            expect(report.locator("section#matrix").count() == 1, "the report is whole")
            server.send_signal(signal.SIGINT)
            server.wait(timeout=10)
            until(page, "document.getElementById('link').textContent.startsWith('not connected')")
            problems = [problem for problem in problems if "ERR_" not in problem]
            expect(problems == [], problems)
            browser.close()
            print(f"seconds from a record to the page: {', '.join(f'{delay:.2f}' for delay in delays)}")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
