"""The runs of `compare` and `growth` on disk, so that one that was stopped goes on where it was: a line of JSON each, the first of them says
what all have in common.

A file belongs to one way of measuring: the same options, programs, scripts and machine. With another one the file stays
as it is and the run is refused. Only whole groups count: what all proxies did in one case of one repetition, without an error.
`compare` removes it when the last run is done and reported: the same command then measures again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys

import harness


class State:
    def __init__(self, path, key, fresh):
        self.path, self.key, self.runs = path, key, []
        found = None if fresh else read(path)
        if found and found[0] != key:
            different = ", ".join(sorted(name for name in key if found[0].get(name) != key[name]))
            raise harness.Failure(f"{path} holds runs that differ in {different}: give --fresh to forget them")
        if found:
            self.runs = found[1:]
            if path.read_text().count("\n") != len(found):
                # One was cut short: what follows is added behind a whole line.
                self.write()
            print(f"going on after {len(self.runs)} runs of {path} (--fresh begins anew)", file=sys.stderr)
        else:
            self.write()

    def write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Never half a file: a stop here must not lose the runs.
        new = self.path.with_suffix(".new")
        new.write_text("".join(json.dumps(line) + "\n" for line in (self.key, *self.runs)))
        new.replace(self.path)

    def keep_whole(self, case, proxies):
        """Forgets what was measured of this case in a repetition that not all of its proxies have ended without an error: ratios are of
        runs that followed each other."""
        groups = {}
        for run in self.runs:
            if run["case"] == case:
                groups.setdefault(run["repetition"], []).append(run)
        broken = {
            repetition
            for repetition, runs in groups.items()
            if {run["proxy"] for run in runs} != set(proxies) or any(run["errors"] for run in runs)
        }
        if broken:
            self.runs = [run for run in self.runs if run["case"] != case or run["repetition"] not in broken]
            self.write()

    def forget(self, which):
        """Forgets runs, which are then measured again."""
        kept = [run for run in self.runs if not which(run)]
        if len(kept) < len(self.runs):
            self.runs = kept
            self.write()

    def add(self, run):
        self.runs.append(run)
        with open(self.path, "a") as file:
            file.write(json.dumps(run) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def has(self, repetition, case, proxy):
        return any((run["repetition"], run["case"], run["proxy"]) == (repetition, case, proxy) for run in self.runs)

    def end(self):
        self.path.unlink(missing_ok=True)


def read(path):
    """The lines, without one that was cut short; None without any."""
    lines = []
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return lines or None


def fingerprint(programs):
    """What the figures depend on besides the options: machine, programs (size and time of change), scripts and configurations.

    Of the scripts those that measure, not `memory` and the like, nor what is only read by people.
    """
    machine = harness.machine()
    del machine["load_at_start"]
    found = {}
    tools = [harness.TARGET / "release" / name for name in ("origin", "bytes", "handshakes", "latency", "messages", "requests")]
    for program in [*programs, *tools, "wrk", "h2load"]:
        file = shutil.which(program)
        if file:
            status = os.stat(file)
            found[str(program)] = [status.st_size, int(status.st_mtime)]
    scripts = hashlib.sha256()
    for pattern in ("*.py", "*.lua", "compare", "growth", "peers/*"):
        for file in sorted(harness.BENCHES.glob(pattern)):
            if file.is_file():
                scripts.update(file.read_bytes())
    return {"machine": machine, "programs": found, "scripts": scripts.hexdigest()}
