"""Runs a study on a Slurm cluster, injects faults, and compares the records with those of a local run.

    .ci/slurm start FOLDER && SLURM_CONF=FOLDER/slurm.conf python checks/slurm.py target/release/nettriage FOLDER

FOLDER is the cluster that `.ci/slurm` starts on one machine. More than 200 small trials run on its four nodes. One task is
cancelled, the slurmd of node n2 is killed, the submitting process is killed and started again, one task without checkpoints exceeds
its time limit, one training longer than the limit continues over several tasks, one submission is interrupted and cancelled, and one
is refused by sbatch.
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
# One child that takes much longer than a minute.
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


# Each of these trainings takes longer than the limit of a task, a minute.
IMAGES, EPOCHS = 8_000_000, 26_000


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def until(what, condition, seconds=240):
    begin = time.monotonic()
    while not condition():
        require(time.monotonic() - begin < seconds, f"not within {seconds} s: {what}")
        time.sleep(0.2)


def payloads(run):
    """The content of every record without timings, and the bytes of every network."""
    found = {}
    for part in ("parents", "trials"):
        for path in sorted((run / part).glob("*.json")):
            whole = json.loads(path.read_bytes())
            whole["payload"].pop("clock")
            found[f"{part}/{path.name}"] = json.dumps([whole["digest"], whole["payload"]])
    for path in sorted((run / "weights").glob("*.safetensors")):
        found[path.name] = path.read_bytes()
    return found


def queue(fields="%F_%K %T"):
    return subprocess.run(["squeue", "--me", "-h", "-r", f"--format={fields}"], check=True, capture_output=True, text=True).stdout.splitlines()


class Workspace:
    """A folder for studies and runs, and the program under test."""

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


def compare_with_local_run(workspace, cluster):
    subprocess.run(workspace.command(MANY, "local"), check=True, capture_output=True)
    reference = payloads(workspace.folder / "local")
    trials = json.loads(workspace.status("local", "--json"))["trials"]
    require(trials >= 200, f"{trials} trials")
    options = ["--slurm-tasks", "4", "--slurm-chunk", "1s", "--slurm-option=--partition=all"]
    run = workspace.start(MANY, "slurm", *options)

    until("15 records", lambda: workspace.records("slurm") >= 15 or run.poll() is not None)
    running = lambda: [line.split()[0] for line in queue("%F_%K %T %j") if line.endswith("RUNNING nettriage-cluster")]
    until("a running task", lambda: running())
    victim = running()[0]
    subprocess.run(["scancel", victim], check=True)
    print(f"task {victim} cancelled with {workspace.records('slurm')} records written")

    until("50 records", lambda: workspace.records("slurm") >= 50 or run.poll() is not None)
    os.kill(int((cluster / "slurmd.n2.pid").read_text()), signal.SIGKILL)
    print(f"slurmd of n2 killed with {workspace.records('slurm')} records written")

    until("90 records", lambda: workspace.records("slurm") >= 90 or run.poll() is not None)
    require(run.poll() is None, f"the run ended too early: {workspace.log('slurm')}")
    run.kill()
    run.wait()
    before = workspace.records("slurm")
    until("records without the submitter", lambda: workspace.records("slurm") > before)
    status = workspace.status("slurm")
    require("slurm    " in status and "tasks running" in status, status)
    print(f"submitter killed; the jobs continue: {status.splitlines()[-1]}")
    run = workspace.start(MANY, "slurm", *options)
    require(run.wait(timeout=240) == 0, workspace.log("slurm"))
    log = workspace.log("slurm")
    require("of an earlier call are still in the queue" in log, log)
    # The trials of the lost tasks were submitted again by the first submitter, or by the second at its start.
    resubmitted = log.find("\njob ", log.find("of an earlier call are still in the queue"))
    require("submitted again" in log or resubmitted >= 0, log)
    status = json.loads(workspace.status("slurm", "--json"))
    require(status["done"] + status["diverged"] == trials and status["failed"] == 0, status)
    found = payloads(workspace.folder / "slurm")
    differ = [name for name in reference.keys() | found.keys() if reference.get(name) != found.get(name)]
    require(differ == [], f"different from the local run: {differ[:5]}")
    print(f"{trials} trials, {len(found)} files: equal to the local run's, except for timings")


def interrupted(workspace):
    run = workspace.start(MANY, "interrupted", "--slurm-chunk", "1s", "--slurm-cancel")
    until("jobs", lambda: any(line.endswith("RUNNING") for line in queue()))
    until("records", lambda: workspace.records("interrupted") > 0)
    own = {line.split()[0] for line in queue("%F %j") if line.endswith("nettriage-cluster")}
    run.send_signal(signal.SIGINT)
    require(run.wait(timeout=60) == 130, workspace.log("interrupted"))
    last = workspace.log("interrupted").splitlines()[-1]
    require("are saved in" in last and "jobs cancelled: " in last and "resume with" in last, last)
    until("an empty queue", lambda: not own & {line.split("_")[0] for line in queue()})
    print(last.replace(str(workspace.folder), "FOLDER"))


def refused(workspace):
    done = subprocess.run(workspace.command(MANY, "refused", "--on", "slurm", "--slurm-option=--partition=nowhere"), capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    require(done.returncode == 2 and last.startswith("error: sbatch: "), done.stderr)
    print(last)


def timed_out(workspace, run):
    require(run.wait(timeout=240) == 1, workspace.log("long"))
    status = json.loads(workspace.status("long", "--json"))
    require(status["failed"] == 1 and status["left"] == 0, status)
    failed = [whole for path in (workspace.folder / "long/trials").glob("*.json") if (whole := json.loads(path.read_bytes()))["state"] == "failed"]
    reason = failed[0]["payload"]["outcome"]["reason"]
    require("TIMEOUT" in reason and "DUE TO TIME LIMIT" in reason, reason)
    print(f"a task over its time limit: {reason.splitlines()[0]}")


def continued(workspace, run, study):
    """A training that is longer than a task may take: its parent and its child are saved and continued, and end in the same bits."""
    require(run.wait(timeout=900) == 0, workspace.log("continued"))
    log = workspace.log("continued")
    require(log.count("submitted again") >= 2, log)
    status = json.loads(workspace.status("continued", "--json"))
    require(status["failed"] == 0 and status["left"] == 0 and status["checkpoints"] == 0, status)
    tasks = [path.read_text() for path in (workspace.folder / "continued/logs").glob("slurm-*.log")]
    saved = sum(text.count("is stopped and saved") for text in tasks)
    require(saved >= 2, tasks)
    found = payloads(workspace.folder / "continued")
    subprocess.run(workspace.command(study, "uninterrupted", "--checkpoint", "off"), check=True, capture_output=True)
    reference = payloads(workspace.folder / "uninterrupted")
    differ = [name for name in reference.keys() | found.keys() if reference.get(name) != found.get(name)]
    require(differ == [], f"different from the uninterrupted run: {differ[:5]}")
    print(f"a training of several tasks: saved {saved} times, equal to the uninterrupted run's, except for timings")


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: slurm.py NETTRIAGE CLUSTER-FOLDER")
    cluster = pathlib.Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory(dir=cluster) as folder:
        workspace = Workspace(sys.argv[1], pathlib.Path(folder))
        layers = json.loads(subprocess.run([workspace.program, "inspect", "--json", str(study_file(workspace))], check=True, capture_output=True, text=True).stdout)
        block = layers["blocks"][-1]["layers"]
        # Each occupies one of the nodes, not the one that is killed.
        study = LONG.replace("{first}", block[0]).replace("{last}", block[-1])
        limit = "--slurm-option=--time=1"
        long = workspace.start(study.replace('"cluster"', '"long"'), "long", limit, "--retries", "0", "--checkpoint", "off", "--slurm-option=--nodelist=n1")
        # Slurm sends the signal up to half a minute early. The study's name tells the jobs of the two runs apart.
        shorter = study.replace("images = 20000000", f"images = {IMAGES}").replace('"cluster"', '"continued"').replace("epochs = 2", f"epochs = {EPOCHS}")
        several = workspace.start(shorter, "continued", limit, "--retries", "3", "--slurm-option=--signal=B:TERM@5", "--slurm-option=--nodelist=n3")
        try:
            refused(workspace)
            interrupted(workspace)
            compare_with_local_run(workspace, cluster)
            timed_out(workspace, long)
            continued(workspace, several, shorter)
        finally:
            long.kill()
            several.kill()
            subprocess.run(["scancel", "--me"])


def study_file(workspace):
    path = workspace.folder / "inspect.toml"
    path.write_text(MANY)
    return path


if __name__ == "__main__":
    main()
