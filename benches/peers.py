"""The proxies that are measured: how each is started, what it cannot do, and its version.

A peer is a row of `KINDS` and its configuration in `peers/`, where `@name@` stands for a value of `Proxy.values`. What all
have to do is in `checks.check`; what one cannot do is told in its row and never left out in silence.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys

import harness
import redis_server

CONFIGURATIONS = harness.BENCHES / "peers"
# Where `install` puts what is built from source.
BUILT = harness.TARGET / "benches" / "peers" / "bin"
# The others are Debian's.
FROM_SOURCE = {"hyper", "pingora", "sozu"}

# What a case may need (`Case.needs`) and a peer may lack (`Kind.cannot`).
CAPABILITIES = {
    "http": "requests over HTTP/1.1, plain and TLS",
    "upload": "bodies of 1 MiB to the backend, over HTTP/1.1 plain",
    "bodies": "bodies of 1 MiB, over HTTP/1.1 TLS",
    "h2": "HTTP/2 from clients",
    "gzip": "compression, level 5",
    "ingress": "tools without a route go to a pool",
    "refuse": "403 without a User-Agent",
    "share": "connections to backends that all clients share",
    "fields": "all header fields, with values of the request",
    "log": "an access log line with host, request, status, User-Agent and backend",
    "websocket": "WebSocket by HTTP/1.1 Upgrade",
    "grpc": "gRPC: HTTP/2 from the client to the backend, trailers both ways",
    "tcp": "connections of a TCP listener",
    "million-routes": "a table of 1,000,000 routes",
}


def known(capabilities):
    """A misspelt one would be needed, or lacked, by nobody."""
    unknown = set(capabilities) - CAPABILITIES.keys()
    if unknown:
        raise ValueError(f"not in CAPABILITIES: {', '.join(sorted(unknown))}")
    return capabilities


@dataclasses.dataclass(frozen=True)
class Kind:
    """How one proxy is configured and started."""

    command: list[str]
    version: list[str]
    # Rendered into the directory of the run as `<name>-<file>`.
    files: tuple[str, ...] = ()
    # A line of its route table, which is `<name>.map`; portico and the old chain have their routes from redis.
    route: str | None = None
    # One more for the host of gRPC, where that is a route as the others.
    grpc_route: str = ""
    # Its routes are part of its configuration (`@routes@`): it cannot read them from another file.
    routes_inside: bool = False
    # Further values for its files.
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    # Processes without which it does not work; started before it, on its core, and counted with it.
    companions: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    # What it needs beside its programs.
    libraries: tuple[str, ...] = ()
    # Capability -> why not. The report prints it, `checks.check` leaves it out.
    cannot: dict[str, str] = dataclasses.field(default_factory=dict)
    # File with its access log; without one its standard output.
    access_log: str | None = None

    def __post_init__(self):
        known(self.cannot)

    def programs(self):
        return [next(word for word in command if "=" not in word and word != "env") for command in [self.command, *self.companions.values()]]


HAPROXY = Kind(
    ["haproxy", "-db", "-f", "@file:haproxy.cfg@"],
    ["haproxy", "-v"],
    ("haproxy.cfg",),
    "{host} origin\n",
    grpc_route="grpc.@domain@ grpc\n",
    values={"splice": "", "bufsize": "16384"},
    cannot={"gzip": "its compression has no level to set"},
)

# The old chain, kinder than it was: connections to redis and to backends are kept.
LEGACY = Kind(
    ["nginx", "-c", "@file:legacy.conf@"],
    ["nginx", "-v"],
    ("legacy.conf", "nginx-http.conf", "legacy-haproxy.cfg"),
    values={
        "known": 'http://127.0.0.1:@origin@ http://origin; "" http://haproxy;',
        "keep_always": "connection:set_keepalive(60000, 1024)",
        "keep_matched": "",
    },
    companions={
        # portico's own redis is on the core of the load and not counted: it is not asked while a run lasts.
        "redis": redis_server.command("@own_redis@", "@directory@"),
        "haproxy": ["haproxy", "-db", "-f", "@file:legacy-haproxy.cfg@"],
    },
    cannot={
        "tcp": "its HAProxy did that alone: as haproxy",
        "grpc": "it spoke HTTP/1.1 to all backends",
    },
    libraries=("/usr/lib/nginx/modules/ngx_http_lua_module.so", "/usr/share/lua/5.1/nginx/redis.lua"),
    access_log="legacy.access",
)

# Sozu knows header fields of a route only, with fixed values.
SOZU_FIELDS = {
    "X-Forwarded-For": "",
    "Forwarded": "",
    "Proxy": "",
    "X-Forwarded-Host": "{host}",
    "Via": "1.1 sozu",
}
SOZU_EDITS = [f'{{ position = "request", key = "{key}", value = "{value}" }}' for key, value in SOZU_FIELDS.items()]
SOZU_EDITS += [
    f'{{ position = "response", key = "{key}", value = "{value}" }}'
    for key, value in (("X-Clacks-Overhead", "GNU Terry Pratchett"), ("Permissions-Policy", "browsing-topics=()"))
]


def sozu_route(scheme):
    edits = SOZU_EDITS + [
        f'{{ position = "request", key = "X-Forwarded-{key}", value = "{value}" }}'
        for key, value in (("Proto", scheme), ("Port", f"@{scheme}@"))
    ]
    return f'  {{ address = "127.0.0.1:@{scheme}@", hostname = "{{host}}", position = "TREE", headers = [{", ".join(edits)}] }},\n'


def built_from_source(program):
    """The hyper and the pingora proxy, which share their arguments."""
    options = "http=127.0.0.1:@http@ https=127.0.0.1:@https@ certificate=@directory@/certificate.pem key=@directory@/key.pem"
    options += " routes=@directory@/@name@.map ingress=127.0.0.1:@ingress@ grpc-host=grpc.@domain@ grpc=127.0.0.1:@grpc@"
    options += " workers=@workers@ idle=@idle@ log=@directory@/@name@.access"
    words = [word for option in options.split() for word in ("--" + option).split("=")]
    return ["@built@/" + program, *words]


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
    # The same with larger buffers: uploads cost a fifth less, small requests rather more, so it has a row of its own.
    "haproxy-bufsize": dataclasses.replace(
        HAPROXY,
        values=HAPROXY.values | {"bufsize": "65536"},
        cannot=HAPROXY.cannot | dict.fromkeys(("http", "h2", "tcp", "million-routes"), "as haproxy, whose buffers are for small requests"),
    ),
    # The same with splice(2), which is off unless asked for; with `option splice-auto` it was never used here. It is for
    # bytes that pass unread, from one plain connection to another.
    "haproxy-splice": dataclasses.replace(
        HAPROXY,
        values=HAPROXY.values | {"splice": "option splice-request\n  option splice-response"},
        cannot=HAPROXY.cannot | dict.fromkeys(("http", "bodies", "h2", "million-routes"), "as haproxy: nothing to splice, or too little"),
    ),
    "legacy": LEGACY,
    # As it was: connections to backends are never kept, and those to redis only after a match.
    "legacy-as-was": dataclasses.replace(
        LEGACY,
        values={
            "known": '"" http://127.0.0.1:@own_haproxy@;',
            "keep_always": "",
            "keep_matched": "connection:set_keepalive(60000, 1024)",
        },
        access_log="legacy-as-was.access",
    ),
    "caddy": Kind(
        # The Go runtime has a thread a core unless told; its state stays out of the home directory.
        ["env", "GOMAXPROCS=@workers@", "HOME=@directory@", "caddy", "run", "--adapter", "caddyfile", "--config", "@file:Caddyfile@"],
        ["caddy", "version"],
        ("Caddyfile",),
        "{host} 127.0.0.1:@origin@\n",
        cannot={
            "tcp": "HTTP only without a module that Debian does not have",
            "log": "its access log is JSON, without the backend",
            "million-routes": "it then needs 90 s and 4.6 GB to start",
        },
        access_log="caddy.access",
    ),
    "sozu": Kind(
        ["@built@/sozu", "--config", "@file:sozu.toml@", "start"],
        ["@built@/sozu", "--version"],
        ("sozu.toml",),
        sozu_route("http") + sozu_route("https"),
        routes_inside=True,
        cannot={
            "gzip": "it does not compress",
            "share": "a connection to a backend is one client's alone, and ends with it",
            "refuse": "it cannot answer 403 by a header field",
            "fields": "its header values are fixed: no X-Original-URI, and one X-Forwarded-Host for all tools of the ingress",
            "million-routes": "each route repeats its header fields, in a configuration of more than 1 GB",
        },
        access_log="sozu.access",
    ),
    "pingora": Kind(
        built_from_source("pingora-peer"),
        [],
        (),
        "{host} 127.0.0.1:@origin@\n",
        cannot={"tcp": "its crate here is an HTTP proxy"},
        access_log="pingora.access",
    ),
    "hyper": Kind(
        built_from_source("hyper-peer"),
        [],
        (),
        "{host} 127.0.0.1:@origin@\n",
        cannot={"tcp": "its crate here is an HTTP proxy"},
        access_log="hyper.access",
    ),
}


class Proxy(harness.Process):
    """A running proxy with a plain and a TLS listener, and all the processes it needs for a request."""

    def __init__(self, name, setting, core=None, kind=None):
        self.kind = kind or KINDS[name]
        self.http_port, self.https_port, self.tcp_port, own_redis_port, own_haproxy_port = harness.free_ports(5)
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
        }
        self.values |= {key: fill(value, self.values) for key, value in self.kind.values.items()}
        if self.kind.route:
            line = fill(self.kind.route, self.values)
            routes = "".join(line.replace("{host}", host) for host in setting.hosts()) + fill(self.kind.grpc_route, self.values)
            if self.kind.routes_inside:
                self.values["routes"] = routes
                for host, key in (("*", "ingress_routes"), ("grpc", "grpc_routes")):
                    self.values[key] = line.replace("{host}", f"{host}.{harness.DOMAIN}")
            else:
                (setting.directory / f"{name}.map").write_text(routes)
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
                if companion == "redis":
                    self.companions[-1].wait_for(own_redis_port)
                    harness.seed_redis(setting, own_redis_port)
            super().__init__(name, [fill(word, self.values) for word in self.kind.command], setting.directory, core)
        except BaseException:
            self.stop_companions()
            raise

    def listening(self):
        """Waits until its listeners take connections, without a request."""
        self.wait_for(self.http_port, self.https_port)
        if self.can("tcp"):
            self.wait_for(self.tcp_port)
        return self

    def can(self, *capabilities):
        return not set(known(capabilities)) & self.kind.cannot.keys()

    def pids(self):
        """All that the chain needs: its companions too."""
        return super().pids() + [pid for companion in self.companions for pid in companion.pids()]

    def stop(self):
        super().stop()
        self.stop_companions()

    def stop_companions(self):
        for companion in self.companions:
            companion.stop()

    def empty_log(self):
        """After a run, whose lines would fill the disk in the end, and be written to it while others are measured.

        Each proxy appends, but for HAProxy, which takes that flag from its standard output: it leaves a hole, which needs no room.
        """
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.access_log, 0)

    def port(self, scheme):
        return self.https_port if scheme == "https" else self.http_port

    def url(self, scheme, path):
        # A name: Sozu answers no client that names no server in its TLS hello, and nobody names an address there.
        return f"{scheme}://localhost:{self.port(scheme)}{path}"


def fill(text, values):
    """`text` with every `@name@` replaced; an unknown name is a mistake in the text."""
    return re.sub(r"@([a-z_]+(?::[A-Za-z.-]+)?)@", lambda found: str(values[found[1]]), text)


def version(name, setting):
    if not KINDS[name].version:
        return locked_version(name)
    argv = [fill(word, {"portico": setting.portico, "built": BUILT}) for word in KINDS[name].version]
    done = subprocess.run(argv, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip().split("\n")[0]
    # Caddy says its number and no more; the old chain begins with nginx.
    return said if name in said.lower() else f"{name}: {said}"


def locked_version(crate):
    """That of the library that a proxy of ours is made of."""
    lock = (CONFIGURATIONS / crate / "Cargo.lock").read_text()
    return f"{crate} " + re.search(rf'name = "{crate}"\nversion = "(.*)"', lock)[1]


def programs(names, setting):
    """The files that these proxies are, and their companions."""
    values = {"portico": setting.portico, "built": BUILT}
    return [fill(program, values) for name in names for program in KINDS[name].programs()]


def require(names):
    """Sees to it that all that these peers need is there: builds it, and installs packages as root, else `install` says which."""
    missing = {name: lacking(name) for name in names if name != "portico"}
    missing = {name: what for name, what in missing.items() if what}
    if not missing:
        return
    # Which sees to packages first.
    parts = sorted(missing.keys() & FROM_SOURCE) or ["packages"]
    said = "; ".join(f"{name} needs {', '.join(what)}" for name, what in missing.items())
    command = " ".join(["benches/install", *parts])
    print(f"not there: {said}; running `{command}`", file=sys.stderr)
    if subprocess.run([harness.BENCHES / "install", *parts], stdout=sys.stderr).returncode != 0:
        raise harness.Failure(f"`{command}` failed, see above; --proxies chooses others")
    still = {name for name in missing if lacking(name)}
    if still:
        raise harness.Failure(f"`{command}` installed not all of what these need: {', '.join(sorted(still))}")


def lacking(name):
    """What is not there of a peer, or is of other sources than those that are here."""
    kind = KINDS[name]
    wanted = [fill(program, {"built": BUILT}) for program in kind.programs()]
    missing = [what for what in wanted if shutil.which(what) is None]
    missing += [what for what in kind.libraries if not pathlib.Path(what).exists()]
    if not missing and (CONFIGURATIONS / name).is_dir():
        sources = [CONFIGURATIONS / "common.rs", *(CONFIGURATIONS / name).glob("Cargo.*"), *(CONFIGURATIONS / name / "src").iterdir()]
        built = pathlib.Path(wanted[0]).stat().st_mtime
        if built < max(source.stat().st_mtime for source in sources):
            missing.append(f"{wanted[0]} of the present sources")
    return missing
