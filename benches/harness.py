"""What the scripts share: programs started and stopped, the stage of every run, a request, CPU and memory read from /proc.

Only the standard library. Nothing here decides what is measured (that is in the scripts) or how a figure is judged
(that is the reader's part). Everything listens on 127.0.0.1 on free ports, writes into one temporary directory, and ends with
the script.
"""

import contextlib
import dataclasses
import glob
import http.client
import json
import os
import pathlib
import platform
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import typing

import redis_server

BENCHES = pathlib.Path(__file__).resolve().parent
ROOT = BENCHES.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

DOMAIN = "tools.example"
HOST_NUMBER = 7
HOST = f"app{HOST_NUMBER}.{DOMAIN}"
# A tool without a route: on Kubernetes.
INGRESS_HOST = f"k8s7.{DOMAIN}"
UNKNOWN_HOST = f"nobody.{DOMAIN}"
USER_AGENT = "portico-benches"
# Longer than any run, so that no connection is closed for being idle; the same in every proxy.
IDLE_SECONDS = 600
START_SECONDS = 20
STOP_SECONDS = 10
ENDING = (signal.SIGTERM, signal.SIGHUP)
TICK_MICROSECONDS = 1_000_000 / os.sysconf("SC_CLK_TCK")


# Where Debian has nginx and haproxy, which not every shell looks at.
os.environ["PATH"] = os.pathsep.join(["/usr/sbin", "/sbin", os.environ.get("PATH", os.defpath)])


class Failure(Exception):
    """Something that the person at the keyboard can mend: shown as one sentence."""


# --- programs -----------------------------------------------------------------------------------------------------------


class Process:
    """A program of ours with its output in a file; `core` pins it and what it starts."""

    def __init__(self, name, argv, directory, core=None):
        self.name = name
        self.output = directory / f"{name}.out"
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        self.started = time.monotonic()
        with open(self.output, "wb") as output:
            self.popen = subprocess.Popen(
                pinned + [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
            )

    def wait_for(self, *ports):
        """Returns when every port takes connections."""
        deadline = time.monotonic() + START_SECONDS
        for port in ports:
            while True:
                if self.popen.poll() is not None:
                    raise Failure(f"{self.name} ended at start: {self.said()}")
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                if time.monotonic() > deadline:
                    raise Failure(f"{self.name} does not listen on port {port}: {self.said()}")
                time.sleep(0.05)

    def said(self):
        """The end of its output, which may be an access log."""
        with open(self.output, "rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - 2000))
            # Zeros: a hole where it was emptied.
            return output.read().decode(errors="replace").strip("\0 \n") or "(no output)"

    def stop(self):
        if self.popen.poll() is not None:
            return
        # Those that it started do not always end with it, and without it nobody knows them any more.
        started = Process.pids(self)[1:]
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            for pid in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def pids(self):
        """The process and all that it started."""
        found, left = [], [self.popen.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            for path in glob.glob(f"/proc/{pid}/task/*/children"):
                with contextlib.suppress(OSError):
                    left += [int(child) for child in pathlib.Path(path).read_text().split()]
        return found

    def cpu(self):
        """CPU time used so far, microseconds: (user, system, exact).

        User and system come in ticks of 10 ms; exact is the CPU clock of each process, in nanoseconds at the source. All
        three hold what threads used that have ended since.
        """
        user = system = exact = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                user += int(fields[11]) * TICK_MICROSECONDS
                system += int(fields[12]) * TICK_MICROSECONDS
            with contextlib.suppress(OSError):
                # What clock_getcpuclockid(3) makes of a process id.
                exact += time.clock_gettime_ns((~pid << 3) | 2) / 1000
        return user, system, exact

    def memory(self):
        """Resident memory in kB: {"rss": each process in full, "pss": pages shared between them counted once}."""
        total = {"rss": 0, "pss": 0}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    key = line.split(":")[0].lower()
                    if key in total:
                        total[key] += int(line.split()[1])
        if not total["pss"]:
            raise Failure(f"the memory of {self.name} cannot be read (/proc/PID/smaps_rollup): another user's, or it ended")
        return total


# Which of Debian's packages has a program.
PACKAGES = {
    "callgrind_control": "valgrind",
    "h2load": "nghttp2-client",
    "nghttp": "nghttp2-client",
    "openssl": "openssl",
    "perf": "linux-perf",
    "redis-server": "redis-server",
    "taskset": "util-linux",
    "wrk": "wrk",
}


def need(*programs):
    """Fails unless all are installed, and names all that are not."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[program] for program in missing))
        raise Failure(
            f"not installed: {', '.join(missing)}. As root: `apt-get install {packages}`, or `benches/install packages` for all that "
            "`compare` needs"
        )


def build(package, profile):
    """The folder with the built programs of `package`."""
    if shutil.which("cargo") is None:
        raise Failure("no cargo: install Rust (https://rustup.rs) and a C compiler (apt-get install build-essential)")
    argv = ["cargo", "build", "--quiet", "--profile", profile, "-p", package]
    if subprocess.run(argv, cwd=ROOT).returncode != 0:
        raise Failure(f"`{' '.join(argv)}` failed")
    return TARGET / profile


def portico_binary(profile):
    given = os.environ.get("PORTICO_BIN")
    return pathlib.Path(given).resolve() if given else build("portico", profile) / "portico"


# --- the stage: origin, redis, certificate ------------------------------------------------------------------------------


@dataclasses.dataclass
class Stage:
    """What every proxy of a run stands on."""

    directory: pathlib.Path
    tools: pathlib.Path
    routes: int
    workers: int
    connections: int
    origin_port: int = 0
    ingress_port: int = 0
    grpc_port: int = 0
    bytes_port: int = 0
    redis_port: int = 0
    portico: pathlib.Path | None = None

    @property
    def certificate(self):
        return self.directory / "certificate.pem"

    @property
    def key(self):
        return self.directory / "key.pem"

    def hosts(self):
        """All hosts with a route, in the order of the tables: that of the load is in the middle, for who goes through them in order."""
        numbers = list(range(self.routes))
        middle = self.routes // 2
        if HOST_NUMBER < self.routes:
            numbers[HOST_NUMBER], numbers[middle] = numbers[middle], numbers[HOST_NUMBER]
        return (f"app{number}.{DOMAIN}" for number in numbers)


def leave(number, _frame):
    """Ends the script so that it stops what it started; no second signal breaks into that."""
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(128 + number)


@contextlib.contextmanager
def stage(proxies, *, routes, workers, connections, profile, core=None):
    """Builds what is needed, starts origin, `bytes` (and redis for portico) on `core`, and cleans up behind the run."""
    need("openssl", *(["redis-server"] if "portico" in proxies else []))
    tools = build("portico-benches", "release")
    # Each connection of a client is one descriptor here and up to two in the proxy.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in ENDING:
        # nohup: who asked not to be told of the terminal's end is not.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)
    with tempfile.TemporaryDirectory(prefix="portico-benches-") as name, contextlib.ExitStack() as running:
        setting = Stage(pathlib.Path(name), tools, routes, workers, connections)
        make_certificate(setting)
        setting.origin_port, setting.ingress_port, setting.grpc_port, setting.bytes_port = free_ports(4)
        listen = {"--listen": setting.origin_port, "--ingress": setting.ingress_port, "--grpc": setting.grpc_port}
        argv = [word for option, port in listen.items() for word in (option, f"127.0.0.1:{port}")]
        origin = Process("origin", [tools / "origin", *argv], setting.directory, core)
        running.callback(origin.stop)
        origin.wait_for(*listen.values())
        end = Process("bytes", [tools / "bytes", "serve", "--listen", f"127.0.0.1:{setting.bytes_port}"], setting.directory, core)
        running.callback(end.stop)
        end.wait_for(setting.bytes_port)
        if "portico" in proxies:
            setting.portico = portico_binary(profile)
            redis, setting.redis_port = redis_server.start(setting.directory, core)
            running.callback(redis.stop)
            seed_redis(setting, setting.redis_port)
        yield setting


def make_certificate(setting):
    """A self-signed P-256 certificate, as the platform's own; HAProxy wants both parts in one file."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN},DNS:localhost"]
    argv += ["-keyout", setting.key, "-out", setting.certificate]
    subprocess.run(argv, check=True, capture_output=True)
    both = setting.certificate.read_text() + setting.key.read_text()
    (setting.directory / "both.pem").write_text(both)


def seed_redis(setting, port):
    """One tool a route, as grid web services register: pattern `.*`. One more for gRPC."""
    origin, grpc = f"http://127.0.0.1:{setting.origin_port}", f"h2c://127.0.0.1:{setting.grpc_port}"
    tools = (f"HSET prefix:app{number} .* {origin}" for number in range(setting.routes))
    redis_server.seed(port, [*tools, f"HSET prefix:grpc .* {grpc}"])


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


# --- a request ----------------------------------------------------------------------------------------------------------


def fetch(port, path, *, host=HOST, tls=False, agent=USER_AGENT, more=()):
    """(status, {lower-case header: value}, body) of one request on a connection of its own."""
    # X-Forwarded-For is there to see that a proxy does not pass it on.
    fields = [f"Host: {host}", "X-Forwarded-For: 192.0.2.1", *([f"User-Agent: {agent}"] if agent else []), *more]
    request = f"GET {path} HTTP/1.1\r\n" + "".join(f"{field}\r\n" for field in fields) + "\r\n"
    try:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            if tls:
                sock = stack.enter_context(encrypted(sock, host))
            sock.sendall(request.encode())
            response = stack.enter_context(http.client.HTTPResponse(sock, method="GET"))
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"no answer to {path} for {host} on port {port}: {error!r}") from error


def counts(port):
    """How many requests and connections an origin has seen, this one included."""
    return json.loads(fetch(port, "/count")[2])


def encrypted(sock, host):
    """A TLS client that takes any certificate, and what the server makes of OpenSSL's usual offer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock, server_hostname=host)


# --- the machine --------------------------------------------------------------------------------------------------------


def machine():
    """What has to be known about a machine to read its figures."""
    model = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"processor": model, "cores": os.cpu_count(), "kernel": platform.release(), "load_at_start": os.getloadavg()[0]}


def said_of(machine):
    """The machine in a report's first sentence."""
    return f"{machine['processor']}, {machine['cores']} cores, kernel {machine['kernel']}"


class Cores(typing.NamedTuple):
    """Where proxies and load run; None: wherever the kernel likes."""

    proxy: int | None
    load: int | None

    @staticmethod
    def usual():
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) == 1:
            print("warning: one core only, proxy and load share it: the figures mean little", file=sys.stderr)
        return Cores(cores[0], cores[-1])


def spread(values, form):
    """Median and range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} [{low:{form}}-{high:{form}}]"


def core_busy(core):
    """CPU time that anything at all has used on a core, microseconds."""
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        fields = line.split()
        if fields[0] == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
            return (user + nice + system + irq + softirq + steal) * TICK_MICROSECONDS
    raise Failure(f"no core {core}")


def run_script(main):
    """Runs a script's `main`; what a person can mend is one sentence and exit code 1."""
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
