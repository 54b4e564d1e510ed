"""The proxies that are measured: how each is started, what it cannot do, and its version.

A peer is a row of `KINDS` and its configuration in `peers/`, where `@name@` stands for a value of `Proxy.values`. What all
have to do is in `harness.check`; what one cannot do is told in its row and never left out in silence.
"""

import dataclasses
import re
import shutil
import subprocess

import harness

CONFIGURATIONS = harness.BENCHES / "peers"
# Where `install` puts what is built from source.
BUILT = harness.TARGET / "benches" / "peers" / "bin"

# What a case may need (`Case.needs`) and a peer may lack (`Kind.cannot`).
CAPABILITIES = {
    "http": "requests over HTTP/1.1, plain and TLS",
    "h2": "HTTP/2 from clients",
    "gzip": "compression, level 5",
    "ingress": "tools without a route go to a pool",
    "refuse": "403 without a User-Agent",
    "log": "an access log line with host, request, status, User-Agent and backend",
    "websocket": "WebSocket by HTTP/1.1 Upgrade",
    "grpc": "gRPC: HTTP/2 from the client to the backend, trailers both ways",
    "tcp": "connections of a TCP listener",
    "million-routes": "a table of 1,000,000 routes",
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """How one proxy is configured and started."""

    command: list[str]
    version: list[str]
    # Rendered into the directory of the run as `<name>-<file>`.
    files: tuple[str, ...] = ()
    # A line of its route table; portico and the old chain have their routes from redis.
    route: str | None = None
    # Further values for its files.
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    # Processes without which it does not work; started before it, on its core, and counted with it.
    companions: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    # Capability -> why not. The report prints it, `harness.check` leaves it out.
    cannot: dict[str, str] = dataclasses.field(default_factory=dict)
    # File with its access log; without one its standard output.
    access_log: str | None = None

    def programs(self):
        return [next(word for word in command if "=" not in word and word != "env") for command in [self.command, *self.companions.values()]]


HAPROXY = Kind(
    ["haproxy", "-db", "-f", "@file:haproxy.cfg@"],
    ["haproxy", "-v"],
    ("haproxy.cfg",),
    "{host} origin\n",
    values={"splice": ""},
    cannot={"gzip": "its compression has no level to set"},
)

KINDS = {
    "portico": Kind(
        ["@portico@", "run", "--config", "@file:portico.toml@"],
        ["@portico@", "--version"],
        ("portico.toml",),
        access_log="portico.access",
    ),
    "nginx": Kind(
        ["nginx", "-c", "@file:nginx.conf@"],
        ["nginx", "-v"],
        ("nginx.conf", "nginx-http.conf"),
        "{host} origin;\n",
        cannot={"tcp": "Debian has TCP in a module of its own (libnginx-mod-stream)"},
        access_log="nginx.access",
    ),
    "haproxy": HAPROXY,
    # The same with splice(2), which is off unless asked for; with `option splice-auto` it was never used here.
    "haproxy-splice": dataclasses.replace(
        HAPROXY,
        values={"splice": "option splice-request\n  option splice-response"},
        cannot={
            "gzip": HAPROXY.cannot["gzip"],
            "http": "as haproxy: only its TCP listener is another",
            "h2": "as haproxy: only its TCP listener is another",
            "million-routes": "as haproxy: only its TCP listener is another",
        },
    ),
}


class Proxy(harness.Process):
    """A running proxy with a plain and a TLS listener, and all the processes it needs for a request."""

    def __init__(self, name, setting, core=None):
        self.kind = KINDS[name]
        self.http_port, self.https_port, self.tcp_port, own_redis_port, own_haproxy_port = harness.free_ports(5)
        if self.kind.route:
            routes = "".join(self.kind.route.format(host=host) for host in setting.hosts())
            (setting.directory / f"{name}.map").write_text(routes)
        self.values = {
            "name": name,
            "http": self.http_port,
            "https": self.https_port,
            "tcp": self.tcp_port,
            "own_redis": own_redis_port,
            "own_haproxy": own_haproxy_port,
            "origin": setting.origin_port,
            "ingress": setting.ingress_port,
            "grpc": setting.grpc_port,
            "bytes": setting.bytes_port,
            "redis": setting.redis_port,
            "directory": setting.directory,
            "workers": setting.workers,
            "connections": setting.connections + 200,
            # Four buckets a route for the hash tables that want to know.
            "buckets": max(16_384, 4 * setting.routes),
            "domain": harness.DOMAIN,
            "idle": harness.IDLE_SECONDS,
            "portico": setting.portico,
            "built": BUILT,
            **self.kind.values,
        }
        for file in self.kind.files:
            self.values[f"file:{file}"] = setting.directory / f"{name}-{file}"
        for file in self.kind.files:
            self.values[f"file:{file}"].write_text(fill((CONFIGURATIONS / file).read_text(), self.values))
        self.access_log = setting.directory / (self.kind.access_log or f"{name}.out")
        self.companions = []
        try:
            for companion, command in self.kind.companions.items():
                argv = [fill(word, self.values) for word in command]
                self.companions.append(harness.Process(f"{name}-{companion}", argv, setting.directory, core))
            super().__init__(name, [fill(word, self.values) for word in self.kind.command], setting.directory, core)
        except BaseException:
            self.stop_companions()
            raise

    def listening(self):
        """Waits until its listeners take connections, without a request."""
        self.wait_for(self.http_port, self.https_port)
        if self.passes_bytes:
            self.wait_for(self.tcp_port)
        return self

    @property
    def passes_bytes(self):
        return self.can("tcp")

    def can(self, *capabilities):
        return not set(capabilities) & self.kind.cannot.keys()

    def pids(self):
        """All that the chain needs: its companions too."""
        return super().pids() + [pid for companion in self.companions for pid in companion.pids()]

    def stop(self):
        super().stop()
        self.stop_companions()

    def stop_companions(self):
        for companion in self.companions:
            companion.stop()

    def port(self, scheme):
        return self.https_port if scheme == "https" else self.http_port

    def url(self, scheme, path):
        return f"{scheme}://127.0.0.1:{self.port(scheme)}{path}"


def fill(text, values):
    """`text` with every `@name@` replaced; an unknown name is a mistake in the text."""
    return re.sub(r"@([a-z_]+(?::[a-z.-]+)?)@", lambda found: str(values[found[1]]), text)


def version(name, setting):
    argv = [fill(word, {"portico": setting.portico, "built": BUILT}) for word in KINDS[name].version]
    done = subprocess.run(argv, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().split("\n")[0]


def require(names):
    """Fails with what to install unless the programs of all these peers are there."""
    for name in names:
        if name != "portico":
            for program in KINDS[name].programs():
                program = fill(program, {"built": BUILT})
                if shutil.which(program) is None:
                    raise harness.Failure(f"`{program}` is not there, which {name} needs: run benches/install (as root for Debian's packages)")
