"""The load programs of `compare`: each function sends a case's traffic to a proxy for some time and says what came back.

What is measured begins with the function, or with its last call of `begin`.

Nothing here reads the proxy's own figures; an answer that is not the one asked for is an error, whosever fault it is.
"""

import dataclasses
import json
import re
import subprocess
import sys
import threading

import harness

# What a load program may take for its connections, and for what is under way at the end.
PATIENCE_SECONDS = 60
# wrk counts what takes longer as an error; with its own two seconds a machine that stood still would be the proxy's.
WRK_TIMEOUT = "10s"
# h2load would rather have AES-128, all other load programs AES-256: that a case costs less must not be for its cipher.
TLS13_CIPHERS = "--tls13-ciphers=TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"
GRPC_MESSAGE = b"\0\0\0\0\x0bwho are you"


@dataclasses.dataclass
class Load:
    """What a load program says of its own run."""

    units: float  # requests, unless the case counts something else
    seconds: float
    errors: int
    detail: dict = dataclasses.field(default_factory=dict)  # what only this program knows


def wrk(case, proxy, seconds, core, begin):
    argv = [*pinned(core), "wrk", "-t1", "--timeout", WRK_TIMEOUT, f"-c{case.connections}", f"-d{seconds}s"]
    argv += ["-H", f"Host: {case.host}", "-H", f"User-Agent: {harness.USER_AGENT}"]
    for header in case.headers:
        argv += ["-H", header]
    if case.script:
        argv += ["-s", harness.BENCHES / case.script]
    done = run([*argv, proxy.url(case.scheme, case.path)], seconds)
    units, took, refused, broken = said_by_wrk(done)
    # As many as the case asks for are no error; those in flight at the end may be of one kind all.
    if case.failing and abs(refused - units * case.failing) <= case.connections:
        refused = 0
    return Load(units, took, refused + broken)


def said_by_wrk(done):
    """(requests, seconds, answers neither 2xx nor 3xx, connections that broke) of a run of wrk that has ended."""
    total = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", done.stdout)
    if not total:
        raise harness.Failure(f"wrk said nothing of use: {done.stdout}{done.stderr}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done.stdout)
    unit = {"ms": 0.001, "s": 1, "m": 60}[total[3]]
    return int(total[1]), float(total[2]) * unit, int(refused[1]) if refused else 0, sum(map(int, broken.groups() if broken else ()))


def h2load(case, proxy, seconds, core, begin):
    argv = [*pinned(core), "h2load", "-t1", f"-c{case.connections}", f"-m{case.streams}", f"-D{seconds}", TLS13_CIPHERS]
    argv += ["-H", f":authority: {case.host}", "-H", f"User-Agent: {harness.USER_AGENT}"]
    for header in case.headers:
        argv += ["-H", header]
    if case.body:
        file = proxy.output.parent / f"{case.name}.body"
        file.write_bytes(case.body)
        argv += ["-d", file]
    done = run([*argv, proxy.url(case.scheme, case.path)], seconds)
    total = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    # Who could not connect in time has no protocol, and nothing else.
    if not total or ("Application protocol: h2" not in done.stdout and any(map(int, total.groups()))):
        raise harness.Failure(f"h2load said nothing of use: {done.stdout}{done.stderr}")
    not_2xx = sum(map(int, re.search(r"2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout).groups()))
    cipher = re.search(r"Cipher: (\S+)", done.stdout)
    detail = {"cipher": cipher[1]} if cipher else {}
    return Load(int(total[1]), float(seconds), sum(map(int, total.groups()[1:])) + not_2xx, detail)


def tcp(case, proxy, seconds, core, begin):
    argv = ["load", "--connect", f"127.0.0.1:{proxy.tcp_port}", "--kind", case.name.removeprefix("tcp-")]
    return ours("bytes", argv, case, proxy, seconds, core)


def handshakes(case, proxy, seconds, core, begin):
    return ours("handshakes", [f"127.0.0.1:{proxy.https_port}", "--host", case.host, *case.options], case, proxy, seconds, core)


def messages(case, proxy, seconds, core, begin):
    argv = [f"127.0.0.1:{proxy.https_port}", "--host", case.host]
    return load_of(opened_first("messages", argv, case, proxy, seconds, core, begin))


def requests(case, proxy, seconds, core, begin):
    """HTTP/1.1 on many connections: those are opened before it begins, which `wrk` cannot do."""
    argv = [f"127.0.0.1:{proxy.port(case.scheme)}", "--host", case.host, "--at-once", str(case.connections)]
    said = opened_first("requests", argv + ["--tls"] * (case.scheme == "https"), case, proxy, seconds, core, begin)
    for failure, count in said["failures"].items():
        print(f"{proxy.name}, {case.name}: {count} x {failure}", file=sys.stderr)
    return Load(said["requests"], said["seconds"], said["errors"])


def latency(case, proxy, seconds, core, begin):
    """At the rate of the case, whatever the proxy would like."""
    argv = [f"127.0.0.1:{proxy.https_port}", "--host", case.host, "--rate", str(case.rate)]
    return load_of(opened_first("latency", argv, case, proxy, seconds, core, begin))


def opened_first(program, argv, case, proxy, seconds, core, begin):
    argv = [harness.TARGET / "release" / program, *argv, "--connections", case.connections]
    return talk(f"{proxy.name}, {case.name}", argv, seconds, core, begin)


def talk(what, argv, seconds, core, begin, end=lambda: None):
    """What a program of `src/bin` says that opens its connections, says "ready" and waits: opening them is not measured.

    `begin` is called then, `end` when all answers have come, both while the connections stand. `what` is for who reads of a failure.
    """
    argv = [*pinned(core), *map(str, argv), "--seconds", str(seconds)]
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout")}
    with subprocess.Popen(argv, text=True, **pipes) as load:
        # For connections that never come to stand, and for answers that never come.
        limit = threading.Timer(seconds + 2 * PATIENCE_SECONDS, load.kill)
        limit.start()
        try:
            line = load.stdout.readline()
            if line:
                begin()
                load.stdin.write("go\n")
                load.stdin.flush()
                line = load.stdout.readline()
                end()
            load.communicate()
        finally:
            limit.cancel()
    if not line:
        raise harness.Failure(f"{what}: `{' '.join(argv)}` failed, see above, or did not end")
    return json.loads(line)


def ours(program, argv, case, proxy, seconds, core):
    """A program of `src/bin` that prints one line of JSON."""
    argv = [*pinned(core), harness.TARGET / "release" / program, *argv]
    argv += ["--connections", str(case.connections), "--seconds", str(seconds)]
    done = run(argv, seconds)
    if done.returncode != 0:
        raise harness.Failure(f"`{program}` failed for {proxy.name}, {case.name}: {done.stdout}{done.stderr}")
    if done.stderr:
        print(f"{proxy.name}, {case.name}: {done.stderr.strip()}", file=sys.stderr)
    return load_of(json.loads(done.stdout))


def load_of(said):
    return Load(said.pop("units"), said.pop("seconds"), said.pop("errors"), said)


def run(argv, seconds):
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=seconds + PATIENCE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise harness.Failure(f"`{' '.join(map(str, argv))}` did not end") from error


def pinned(core):
    """The beginning of a command line that runs on this core; None: wherever the kernel likes."""
    return [] if core is None else ["taskset", "-c", str(core)]
