"""Runs a study on a Slurm cluster, breaks things on the way, and compares its records with a local run's.

    .ci/slurm start FOLDER && SLURM_CONF=FOLDER/slurm.conf python checks/slurm.py target/release/nettriage FOLDER

FOLDER is the one-machine cluster of `.ci/slurm`: the node whose slurmd is killed is its n2. Over 200 small trials on
four nodes; one task is cancelled, one slurmd killed, the submitting process killed and started again, one task times
out, one submission is interrupted and cancelled, one is refused.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

STUDY = """
name = "cluster"
[data]
name = "digits"
validation = 100
train = 300
test = 100
[parent]
arch = "vgg"
plan = [[6, 6], [8, 8]]
[parent.training]
epochs = 2
batch = 32
rate = 0.05
[children]
seeds = 3
images = {images}
batch = 32
rate = 0.02
curve = 2
calibration = 100
keep = "network"
[triage]
"""
MANY = STUDY.format(images=960) + 'inits = ["random", "first", "mean", "least-squares"]\n'
# One child that takes far longer than a minute.
LONG = STUDY.format(images=20_000_000).replace("seeds = 3", "seeds = 1") + """
inits = ["random"]
schemes = ["global"]
parent_continued = []
placebo = []
reinit = []
drop = []
[[triage.block]]
name = "last"
first = "{first}"
last = "{last}"
"""


def expect(truth, what):
    if not truth:
        raise AssertionError(what)


def until(what, so, seconds=240):
    begin = time.monotonic()
    while not so():
        expect(time.monotonic() - begin < seconds, f"never: {what}")
        time.sleep(0.2)


def payloads(run):
    """Every record's bytes without its clock readings, and every network's bytes."""
    found = {}
    for part in ("parents", "trials"):
        for path in sorted((run / part).glob("*.json")):
            whole = json.loads(path.read_bytes())
            whole["payload"].pop("clock")
            found[f"{part}/{path.name}"] = json.dumps([whole["digest"], whole["payload"]])
    for path in sorted((run / "weights").glob("*.safetensors")):
        found[path.name] = path.read_bytes()
    return found


def queue(form="%F_%K %T"):
    return subprocess.run(["squeue", "--me", "-h", "-r", f"--format={form}"], check=True, capture_output=True, text=True).stdout.splitlines()


class Place:
    def __init__(self, program, folder):
        self.program, self.folder = str(pathlib.Path(program).resolve()), folder

    def command(self, study, out, *more):
        (self.folder / f"{out}.toml").write_text(study)
        return [self.program, "run", str(self.folder / f"{out}.toml"), "--out", str(self.folder / out), *more]

    def start(self, study, out, *more):
        log = open(self.folder / f"{out}.log", "a")
        return subprocess.Popen(self.command(study, out, "--on", "slurm", *more), stdout=log, stderr=log)

    def log(self, out):
        return (self.folder / f"{out}.log").read_text()

    def records(self, out):
        return len(list((self.folder / out / "trials").glob("*.json")))

    def status(self, out, *more):
        done = subprocess.run([self.program, "status", str(self.folder / out), *more], check=True, capture_output=True, text=True)
        return done.stdout


def many(place, cluster):
    trials = None
    subprocess.run(place.command(MANY, "local"), check=True, capture_output=True)
    reference = payloads(place.folder / "local")
    trials = json.loads(place.status("local", "--json"))["trials"]
    expect(trials >= 200, f"{trials} trials")
    options = ["--slurm-tasks", "4", "--slurm-chunk", "1s", "--slurm-option=--partition=all"]
    run = place.start(MANY, "slurm", *options)

    until("15 records", lambda: place.records("slurm") >= 15 or run.poll() is not None)
    running = lambda: [line.split()[0] for line in queue() if line.endswith("RUNNING")]
    until("a running task", lambda: running())
    victim = running()[0]
    subprocess.run(["scancel", victim], check=True)
    print(f"task {victim} cancelled with {place.records('slurm')} records there")

    until("50 records", lambda: place.records("slurm") >= 50 or run.poll() is not None)
    os.kill(int((cluster / "slurmd.n2.pid").read_text()), signal.SIGKILL)
    print(f"slurmd of n2 killed with {place.records('slurm')} records there")

    until("90 records", lambda: place.records("slurm") >= 90 or run.poll() is not None)
    expect(run.poll() is None, f"it ended too early: {place.log('slurm')}")
    run.kill()
    run.wait()
    before = place.records("slurm")
    until("records without the submitter", lambda: place.records("slurm") > before)
    said = place.status("slurm")
    expect("slurm    " in said and "tasks running" in said, said)
    print(f"submitter killed; the jobs go on: {said.splitlines()[-1]}")
    run = place.start(MANY, "slurm", *options)
    expect(run.wait(timeout=240) == 0, place.log("slurm"))
    log = place.log("slurm")
    expect("of an earlier call are in the queue still" in log, log)
    # What the lost tasks left open was submitted again by the first submitter, or by the second as it began.
    anew = log.find("\njob ", log.find("of an earlier call are in the queue still"))
    expect("submitted again" in log or anew >= 0, log)
    status = json.loads(place.status("slurm", "--json"))
    expect(status["done"] + status["diverged"] == trials and status["failed"] == 0, status)
    found = payloads(place.folder / "slurm")
    differ = [name for name in reference.keys() | found.keys() if reference.get(name) != found.get(name)]
    expect(differ == [], f"these differ from the local run: {differ[:5]}")
    print(f"{trials} trials, {len(found)} files: the same as the local run's, clock readings apart")


def interrupted(place):
    run = place.start(MANY, "interrupted", "--slurm-chunk", "1s", "--slurm-cancel")
    until("jobs", lambda: any(line.endswith("RUNNING") for line in queue()))
    until("records", lambda: place.records("interrupted") > 0)
    own = {line.split()[0] for line in queue("%F %j") if line.endswith("nettriage-cluster")}
    run.send_signal(signal.SIGINT)
    expect(run.wait(timeout=60) == 130, place.log("interrupted"))
    last = place.log("interrupted").splitlines()[-1]
    expect("are saved in" in last and "jobs cancelled: " in last and "go on with" in last, last)
    until("an empty queue", lambda: not own & {line.split("_")[0] for line in queue()})
    print(last.replace(str(place.folder), "FOLDER"))


def refused(place):
    done = subprocess.run(place.command(MANY, "refused", "--on", "slurm", "--slurm-option=--partition=nowhere"), capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    expect(done.returncode == 2 and last.startswith("error: sbatch: "), done.stderr)
    print(last)


def timed_out(place, run):
    expect(run.wait(timeout=240) == 0, place.log("long"))
    status = json.loads(place.status("long", "--json"))
    expect(status["failed"] == 1 and status["left"] == 0, status)
    failed = [whole for path in (place.folder / "long/trials").glob("*.json") if (whole := json.loads(path.read_bytes()))["state"] == "failed"]
    reason = failed[0]["payload"]["outcome"]["reason"]
    expect("TIMEOUT" in reason and "DUE TO TIME LIMIT" in reason, reason)
    print(f"a task over its time: {reason.splitlines()[0]}")


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: slurm.py NETTRIAGE FOLDER-OF-THE-CLUSTER")
    cluster = pathlib.Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory(dir=cluster) as folder:
        place = Place(sys.argv[1], pathlib.Path(folder))
        layers = json.loads(subprocess.run([place.program, "inspect", "--json", str(study_file(place))], check=True, capture_output=True, text=True).stdout)
        block = layers["blocks"][-1]["layers"]
        # It takes a minute and holds one of the nodes meanwhile.
        long = place.start(LONG.replace("{first}", block[0]).replace("{last}", block[-1]), "long", "--slurm-option=--time=1", "--retries", "0")
        try:
            refused(place)
            interrupted(place)
            many(place, cluster)
            timed_out(place, long)
        finally:
            long.kill()
            subprocess.run(["scancel", "--me"])


def study_file(place):
    path = place.folder / "inspect.toml"
    path.write_text(MANY)
    return path


if __name__ == "__main__":
    main()
