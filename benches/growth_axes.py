"""What grows in `growth`: the axes, and the points that are measured on each.

A new axis is a row of `axes`. What only one proxy can be told of (`Axis.only`) is done in `growth`.
"""

import dataclasses

import peers

# How many requests are under way at a time.
AT_ONCE = 64
# On the axis of connections: as many as its first point has.
FEW_AT_ONCE = 10
# Well below what two cores carry that also make the load: the rate is given, what it costs is the question.
WORKERS_RATE = 15_000


@dataclasses.dataclass(frozen=True)
class Point:
    """One measurement of an axis: what the load asks for, and of which proxy."""

    series: str  # beside the proxy's name; empty on an axis with one line a proxy
    x: int
    load: tuple  # arguments of `requests`
    # What the proxy is started with; points with the same share one.
    routes: int = 3_000
    workers: int = 1
    backends: int = 1


@dataclasses.dataclass(frozen=True)
class Axis:
    name: str
    title: str
    x_label: str
    log_x: bool
    points: tuple
    # Proxies that this script knows how to tell of it.
    only: frozenset = frozenset(peers.KINDS)


def requests(tools=1, connections=AT_ONCE, at_once=AT_ONCE, **more):
    words = ["--tools", tools, "--connections", connections, "--at-once", at_once]
    for name, value in more.items():
        words += [f"--{name}"] if value is True else [f"--{name}", value]
    return tuple(map(str, words))


def axes(smoke):
    sizes = (100, 1_000) if smoke else (1_000, 10_000, 100_000, 1_000_000)
    tools = (1, 30) if smoke else (1, 10, 100, 1_000, 3_000)
    connections = (10, 100) if smoke else (10, 100, 1_000, 10_000)
    fields = (10, 100) if smoke else (10, 25, 50, 100)
    own = {"routes": 100} if smoke else {}
    return [
        Axis(
            "routes", "Routes in the table", "routes", True,
            tuple(Point(series, size, requests(tools=asked), routes=size)
                  for size in sizes for series, asked in (("random hosts", size), ("one host", 1))),
        ),
        Axis(
            "tools", "Tools in use at once, each with its own backend", "tools", True,
            tuple(Point("", number, requests(tools=number), routes=tools[-1], backends=tools[-1]) for number in tools),
            only=frozenset({"portico", "nginx"}),
        ),
        Axis(
            "connections", "Connections over TLS, 10 requests under way", "connections", True,
            tuple(Point("", number, requests(connections=number, at_once=FEW_AT_ONCE, tls=True), **own) for number in connections),
        ),
        Axis(
            "fields", "Header fields of 31 bytes", "fields in all", False,
            tuple(Point("of the request", number, requests(fields=number), **own) for number in fields)
            + tuple(Point("of the answer", number, requests(target=f"/fields?{number}"), **own) for number in fields),
        ),
        Axis(
            "workers", f"Workers, {WORKERS_RATE:,} requests a second on two cores", "workers", False,
            tuple(Point("", number, requests(rate=WORKERS_RATE), workers=number, **own) for number in (1, 2)),
        ),
    ]
