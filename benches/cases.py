"""The cases of `compare`: which traffic, by which load program, and what the design promises for it.

Another case is another row of `CASES`, with another function in `loads.py` where no program there makes its traffic.
"""

import dataclasses
import typing

import checks
import harness
import loads
import peers

# Whose better figure a budget is about.
BUDGET_PEERS = ("nginx", "haproxy", "haproxy-bufsize")
# As production was; `legacy` keeps connections that it did not keep.
OLD_CHAIN = "legacy-as-was"


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of traffic."""

    name: str
    title: str
    load: typing.Callable
    scheme: str = "https"
    path: str = "/1k"
    connections: int = 64
    budget: float | None = None  # portico's CPU over that of the better of `BUDGET_PEERS`, at most; None: the design names none
    old_chain: float | None = None  # and over that of the old chain
    needs: frozenset = frozenset({"http"})  # what a proxy must be able to do (`peers.CAPABILITIES`)
    unit: str = "request"  # what the CPU time is told for
    host: str = harness.HOST
    streams: int = 1  # of each connection, at once
    headers: tuple = ()
    body: bytes = b""
    script: str | None = None  # of wrk, beside this file
    options: tuple = ()  # of the load program
    failing: float = 0  # the share of requests whose answer is to be an error
    rate: float = 0  # requests a second; 0: as fast as it goes

    def __post_init__(self):
        peers.known(self.needs)


def needs(*capabilities):
    return frozenset({"http", *capabilities})


H2 = {"load": loads.h2load, "connections": 32, "streams": 16}
HANDSHAKES = {"load": loads.handshakes, "connections": 32, "unit": "connection"}
TCP = {"load": loads.tcp, "scheme": "tcp", "path": "", "needs": frozenset({"tcp"})}
CASES = [
    Case("h1-plain", "HTTP/1.1 plain, 1 KiB", loads.wrk, "http", budget=0.85, old_chain=0.20),
    Case("h1-tls", "HTTP/1.1 TLS, 1 KiB", loads.wrk, budget=0.80, old_chain=0.20),
    Case("h2-tls", "HTTP/2 TLS, 1 KiB, 16 streams", **H2, budget=0.85, old_chain=0.20, needs=needs("h2")),
    Case("h1-plain-1000", "HTTP/1.1 plain, 1 KiB, 1,000 connections", loads.requests, "http", connections=1000, budget=0.85),
    Case("h1-tls-1000", "HTTP/1.1 TLS, 1 KiB, 1,000 connections", loads.requests, connections=1000, budget=0.80),
    # Through a pool, for tools without a route: where most tools of the platform are.
    Case("ingress", "HTTP/1.1 TLS, 1 KiB, ingress", loads.wrk, budget=0.80, old_chain=0.20, host=harness.INGRESS_HOST, needs=needs("ingress")),
    Case("ingress-h2", "HTTP/2 TLS, 1 KiB, 16 streams, ingress", **H2, budget=0.85, old_chain=0.20, host=harness.INGRESS_HOST, needs=needs("h2", "ingress")),
    Case("handshake", "new TLS connection, X25519", **HANDSHAKES, budget=0.50, options=("--kind", "full", "--key-exchange", "x25519")),
    Case("handshake-browser", "new TLS connection, as browsers offer it", **HANDSHAKES, options=("--kind", "full", "--key-exchange", "browser")),
    Case("handshake-resumed", "new TLS connection, resumed, X25519", **HANDSHAKES, options=("--kind", "resumed", "--key-exchange", "x25519")),
    Case("down", "HTTP/1.1 TLS, 1 MiB down", loads.wrk, path="/1m", connections=16, budget=0.50, needs=frozenset({"bodies"})),
    Case("down-h2", "HTTP/2 TLS, 1 MiB down", loads.h2load, path="/1m", connections=16, needs=frozenset({"bodies"})),
    Case("up", "HTTP/1.1 plain, 1 MiB up", loads.wrk, "http", "/up", 16, budget=0.60, script="upload.lua",
         needs=frozenset({"upload"})),
    Case("up-tls", "HTTP/1.1 TLS, 1 MiB up", loads.wrk, path="/up", connections=16, budget=0.60, script="upload.lua",
         needs=frozenset({"bodies"})),
    Case("gzip", "HTTP/1.1 TLS, 100 kB of JSON, gzip level 5", loads.wrk, path="/json", connections=16,
         headers=("Accept-Encoding: gzip",), needs=needs("gzip")),
    Case("messages", "WebSocket over TLS, messages of 125 bytes and back", loads.messages, path="/ws", unit="message", needs=needs("websocket")),
    Case("grpc", "gRPC, small messages, 16 streams", **H2, path=checks.GRPC_PATH, host=checks.GRPC_HOST, body=loads.GRPC_MESSAGE,
         headers=checks.GRPC_FIELDS, needs=needs("h2", "grpc")),
    # Every twentieth request 503 of the backend, every twentieth 404 of a host that nobody knows.
    Case("errors", "HTTP/1.1 TLS, 1 KiB, 10 % errors", loads.wrk, script="errors.lua", failing=0.1),
    # Bytes of TCP connections, by a pool of one node.
    Case("tcp-down", "TCP, 8 downloads", **TCP, connections=8, budget=0.90, unit="GiB"),
    Case("tcp-up", "TCP, 8 uploads", **TCP, connections=8, budget=0.90, unit="GiB"),
    Case("tcp-connect", "TCP, connect, 1 KiB, close", **TCP, connections=32, unit="connection"),
]
# Measured last: its rate follows from the others' runs.
LATENCY = Case("latency", "HTTP/1.1 TLS, 1 KiB, fixed rate", loads.latency)
# The case whose slowest proxy says at which rate latency is measured, and the share of that.
CAPACITY, LATENCY_SHARE = "h1-tls", 0.5


class Unit(typing.NamedTuple):
    """How CPU time and rate for it are written."""

    time: str
    microseconds: int
    cpu_form: str
    rate: str
    rate_form: str


UNITS = {
    "request": Unit("us", 1, ",.1f", "requests/s", ",.0f"),
    "message": Unit("us", 1, ",.1f", "messages/s", ",.0f"),
    "connection": Unit("us", 1, ",.1f", "connections/s", ",.0f"),
    "GiB": Unit("ms", 1000, ",.0f", "GiB/s", ".2f"),
}
