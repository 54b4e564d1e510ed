"""What is asked of every proxy before a figure of it is believed: that it does the work that is compared.

What its row in `peers.KINDS` says it cannot do is not asked for; a case that needs it is not measured on it. No time is judged.
"""

import contextlib
import re
import socket
import subprocess
import time

import harness
from harness import DOMAIN, HOST, INGRESS_HOST, START_SECONDS, UNKNOWN_HOST, USER_AGENT, Failure, fetch
from loads import GRPC_MESSAGE

# Most flush their log once a second.
LOG_SECONDS = 5
# What `bytes` sends at a time.
BLOCK_BYTES = 16 << 20
# For the few requests that nghttp sends.
NGHTTP_SECONDS = 15
GRPC_HOST = f"grpc.{DOMAIN}"
GRPC_PATH = "/tools.Tools/Ask"
GRPC_FIELDS = ("content-type: application/grpc", "te: trailers")

TO_BACKEND = {"host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-original-uri", "via"}
NOT_TO_BACKEND = {"x-forwarded-for", "x-real-ip", "forwarded"}
# The key is that of RFC 6455.
WEBSOCKET = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
TO_CLIENT = {"x-clacks-overhead", "permissions-policy"}


def check(proxy, setting):
    """Fails unless the proxy does the work that is compared: right bodies, headers both ways, routes looked up, all of it logged."""
    wait_for_routes(proxy, setting)
    for scheme in ("http", "https"):
        check_scheme(proxy, setting, scheme)
    if proxy.can("h2"):
        check_h2(proxy)
        if proxy.can("grpc"):
            check_grpc(proxy)
    if proxy.can("tcp"):
        check_bytes(proxy)
    status, _, body = fetch(setting.origin_port, "/1k")
    if status != 200 or len(body) != 1024:
        raise Failure("the origin itself does not answer")


def wait_for_routes(proxy, setting):
    """Sozu listens before it knows all of its routes."""
    last = f"app{setting.routes - 1}.{DOMAIN}" if setting.routes else INGRESS_HOST
    deadline = time.monotonic() + START_SECONDS
    for scheme in ("http", "https"):
        while (status := fetch(proxy.port(scheme), "/1k", host=last, tls=scheme == "https")[0]) != 200:
            if time.monotonic() > deadline:
                raise Failure(f"{proxy.name} over {scheme}: {last} is answered with {status}. It said: {proxy.said()}")
            time.sleep(0.05)


def check_scheme(proxy, setting, scheme):
    tls, port = scheme == "https", proxy.port(scheme)

    def want(condition, what):
        if not condition:
            raise Failure(f"{proxy.name} over {scheme}: {what}. It said: {proxy.said()}")

    for path, size in (("/1k", 1 << 10), ("/1m", 1 << 20)):
        status, headers, body = fetch(port, path, tls=tls)
        want(status == 200 and body == b"x" * size, f"{path} answered {status} with {len(body)} bytes")
    expected = TO_CLIENT | ({"strict-transport-security"} if tls else set())
    want(expected <= headers.keys(), f"the client did not get {expected - headers.keys()}")
    want(tls or "strict-transport-security" not in headers, "Strict-Transport-Security without TLS")
    status, headers, body = fetch(port, "/head", tls=tls)
    want_at_backend(proxy, body, want)
    if proxy.can("gzip"):
        encoding = fetch(port, "/json", tls=tls, more=["Accept-Encoding: gzip"])[1].get("content-encoding")
        want(encoding == "gzip", "JSON was not compressed")
    if proxy.can("ingress"):
        want(fetch(port, "/1k", host=INGRESS_HOST, tls=tls)[0] == 200, "a tool of the ingress was not answered with 200")
    want(fetch(port, "/1k", host=UNKNOWN_HOST, tls=tls)[0] == 404, "a host that nobody knows was not answered with 404")
    if proxy.can("refuse"):
        want(fetch(port, "/1k", agent=None, tls=tls)[0] == 403, "a request without a User-Agent was not answered with 403")
    if proxy.can("websocket"):
        status = fetch(port, "/ws", tls=tls, more=WEBSOCKET)[0]
        want(status == 101, f"a request for WebSocket was answered with {status}")
    # The backend does not know it.
    path = f"/logged-over-{scheme}"
    line = logged(proxy, path, lambda: fetch(port, path, tls=tls))
    parts = [HOST, path, "404", "127.0.0.1"]
    parts += [USER_AGENT, f"127.0.0.1:{setting.origin_port}"] if proxy.can("log") else []
    missing = [part for part in parts if part not in line]
    want(not missing, f"the access log has no line of a request with {missing}, but {line!r}")


def want_at_backend(proxy, head, want):
    """`head` is the request as the backend got it."""
    names = {line.split(b":")[0].decode().lower() for line in head.split(b"\r\n")[1:] if line}
    to_backend = TO_BACKEND if proxy.can("fields") else TO_BACKEND - {"x-original-uri"}
    want(to_backend <= names, f"the backend did not get {to_backend - names}")
    want(not names & NOT_TO_BACKEND, f"the backend got {names & NOT_TO_BACKEND}")


def logged(proxy, path, ask):
    """The line of the access log with `path`, when it was written; nothing when it was not in time.

    Asked again and again: some write only when there is more to write.
    """
    deadline = time.monotonic() + LOG_SECONDS
    while time.monotonic() < deadline:
        ask()
        with contextlib.suppress(OSError):
            for line in proxy.access_log.read_text(errors="replace").splitlines():
                if path in line:
                    return line
        time.sleep(0.05)
    return ""


def check_h2(proxy):
    def want(condition, what):
        if not condition:
            raise Failure(f"{proxy.name} over HTTP/2: {what}. It said: {proxy.said()}")

    for path, size in (("/1k", 1 << 10), ("/1m", 1 << 20)):
        fields, _, body = fetch_h2(proxy, path)
        want(fields.get(":status") == "200" and body == b"x" * size, f"{path} answered {fields.get(':status')} with {len(body)} bytes")
    expected = TO_CLIENT | {"strict-transport-security"}
    want(expected <= fields.keys(), f"the client did not get {expected - fields.keys()}")
    want_at_backend(proxy, fetch_h2(proxy, "/head")[2], want)
    for host, status in ((INGRESS_HOST, "200"), (UNKNOWN_HOST, "404")):
        if host == UNKNOWN_HOST or proxy.can("ingress"):
            got = fetch_h2(proxy, "/1k", host=host)[0].get(":status")
            want(got == status, f"{host} was answered with {got}, not with {status}")


def check_grpc(proxy):
    """A message there and one back, in the framing of gRPC, and how it went in trailers."""
    message = proxy.output.parent / "grpc.message"
    message.write_bytes(GRPC_MESSAGE)
    fields, trailers, body = fetch_h2(proxy, GRPC_PATH, host=GRPC_HOST, more=GRPC_FIELDS, file=message)
    status, size = trailers.get("grpc-status"), int.from_bytes(body[1:5], "big")
    if fields.get(":status") != "200" or status != "0" or len(body) != 5 + size or not size:
        raise Failure(
            f"{proxy.name}: gRPC was answered with {fields.get(':status')}, {len(body)} bytes and grpc-status {status}. "
            f"It said: {proxy.said()}"
        )


def fetch_h2(proxy, path, *, host=HOST, more=(), file=None):
    """({header: value}, {trailer: value}, body) of one request over HTTP/2 and TLS: of what nghttp prints of its frames."""
    harness.need("nghttp")
    # Asked twice: what it says of frames would stand in the midst of the body.
    said, body = (nghttp(proxy, path, host, more, file, mode) for mode in (["-v", "-n"], []))
    blocks, fields = [], {}
    # "[  0.004] recv (stream_id=13) :status: 200" for each field, then the frame that they were of.
    for line in said.decode(errors="replace").splitlines():
        if field := re.search(r"recv \(stream_id=\d+\) (:?[^:]+): (.*)", line):
            fields[field[1].lower()] = field[2]
        elif "recv HEADERS frame" in line:
            blocks.append(fields)
            fields = {}
    if not blocks:
        raise Failure(f"no answer to {path} for {host} from {proxy.name} over HTTP/2: {said.decode(errors='replace').strip()[-500:]}")
    return blocks[0], blocks[1] if len(blocks) > 1 else {}, body


def nghttp(proxy, path, host, more, file, mode):
    argv = ["nghttp", "--no-verify-peer", "--no-dep", "--timeout=10", *mode]
    # It takes gzip unless told, which no client of gRPC does.
    always = (f":authority: {host}", f"user-agent: {USER_AGENT}", "accept-encoding: identity", "x-forwarded-for: 192.0.2.1")
    for field in (*always, *more):
        argv += ["-H", field]
    argv += ["-d", file] if file else []
    try:
        return subprocess.run([*argv, proxy.url("https", path)], capture_output=True, timeout=NGHTTP_SECONDS).stdout
    except subprocess.TimeoutExpired as error:
        raise Failure(f"no answer to {path} for {host} from {proxy.name} over HTTP/2 in {NGHTTP_SECONDS} s") from error


def negotiated(proxy):
    """Version and cipher suite, of the offer of OpenSSL; that of the load programs leads to the same."""
    with socket.create_connection(("127.0.0.1", proxy.https_port), timeout=10) as sock, harness.encrypted(sock, HOST) as tls:
        return f"{tls.version()} {tls.cipher()[0]}"


def check_bytes(proxy):
    """Fails unless a block comes out of the TCP listener as it went in, and an end of the connection passes."""
    block = bytes(range(251)) * (BLOCK_BYTES // 251 + 1)
    try:
        with socket.create_connection(("127.0.0.1", proxy.tcp_port), timeout=10) as sock:
            answers = sock.makefile("rb")
            sock.sendall(b"d")
            if answers.read(BLOCK_BYTES) != block[:BLOCK_BYTES]:
                raise Failure(f"{proxy.name}: other bytes came out of its TCP listener than went in")
            sock.sendall(b"u" + block[:BLOCK_BYTES] + b"c")
            if answers.read() != b"u" + b"x" * 1024:
                raise Failure(f"{proxy.name}: the answer to a block did not come out of its TCP listener, or its end did not")
    except OSError as error:
        raise Failure(f"no bytes through the TCP listener of {proxy.name}: {error!r}. It said: {proxy.said()}") from error
