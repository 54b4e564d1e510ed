"""The proxies that are measured: how each is configured to do the same work, started and asked its version.

Another peer is another row of `KINDS`. What none of them may leave out is in `harness.check`.
"""

import dataclasses
import subprocess

import harness

# --- their configurations --------------------------------------------------------------------------------------------------------

PORTICO = """
[server]
workers = {workers}

[listen]
http = ["127.0.0.1:{http}"]
redirect = false
https = ["127.0.0.1:{https}"]
admin = "unix:{directory}/admin.sock"

[tls]
certificates = [{{ chain = "{directory}/certificate.pem", key = "{directory}/key.pem" }}]

[domains]
canonical = "{domain}"
legacy = []

[registry]
url = "redis://127.0.0.1:{redis}/0"
snapshot = "{directory}/routes.snapshot"

[timeouts]
keep_alive = "{idle}s"

# All load goes to a single tool; the peers have no such cap.
[limits]
in_flight_per_tool = 20000

[ingress]
pool = "ingress"

[pools.ingress]
nodes = ["127.0.0.1:{ingress}"]

[pools.bytes]
nodes = ["127.0.0.1:{bytes}"]

[[tcp]]
name = "bytes"
listen = ["127.0.0.1:{tcp}"]
pool = "bytes"

[log]
access = "{directory}/portico.access"
"""

NGINX = """
user root;
worker_processes {workers};
worker_rlimit_nofile 20000;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.err error;
events {{ worker_connections 19000; multi_accept off; }}
http {{
  log_format vhosts '$host $remote_addr - $remote_user [$time_local] "$request" $status '
                    '$body_bytes_sent "$http_referer" "$http_user_agent" (backend $upstream_addr)';
  access_log {directory}/nginx.access vhosts buffer=32k flush=1s;
  sendfile on; tcp_nopush on; tcp_nodelay on; server_tokens off;
  keepalive_timeout {idle}s; keepalive_requests 100000000;
  gzip on; gzip_comp_level 5; gzip_min_length 1024; gzip_proxied any; gzip_vary on; gzip_types application/json;
  client_max_body_size 128m; proxy_request_buffering off;
  client_body_temp_path {directory}/nginx-body; proxy_temp_path {directory}/nginx-proxy;
  ssl_certificate {directory}/certificate.pem; ssl_certificate_key {directory}/key.pem;
  ssl_protocols TLSv1.2 TLSv1.3;

  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $http_host;
  proxy_set_header Proxy "";
  proxy_set_header Forwarded "";
  proxy_set_header X-Forwarded-For "";
  proxy_set_header X-Real-IP "";
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Forwarded-Host $host;
  proxy_set_header X-Forwarded-Port $server_port;
  proxy_set_header X-Original-URI $request_uri;
  proxy_set_header Via "1.1 nginx";
  map_hash_max_size 16384; map_hash_bucket_size 128;
  map $https $transport_security {{ on "max-age=31622400"; default ""; }}
  proxy_hide_header Strict-Transport-Security;
  proxy_hide_header X-Clacks-Overhead;
  proxy_hide_header Permissions-Policy;
  add_header Strict-Transport-Security $transport_security always;
  add_header X-Clacks-Overhead "GNU Terry Pratchett" always;
  add_header Permissions-Policy "browsing-topics=()" always;

  upstream origin {{ server 127.0.0.1:{origin}; keepalive 1024; keepalive_requests 100000000; }}
  # Tools without a route of their own are on Kubernetes.
  upstream ingress {{ server 127.0.0.1:{ingress} max_conns=1000; keepalive 1024; keepalive_requests 100000000; }}
  map $host $backend {{ default ingress; include {directory}/nginx.map; }}
  server {{
    listen 127.0.0.1:{http} backlog=4096 default_server;
    listen 127.0.0.1:{https} ssl http2 backlog=4096 default_server;
    if ($http_user_agent = "") {{ return 403; }}
    location / {{ proxy_pass http://$backend; }}
  }}
}}
"""

HAPROXY = """
global
  nbthread {workers}
  maxconn {connections}
  no strict-limits
  ssl-default-bind-options ssl-min-ver TLSv1.2
  tune.ssl.default-dh-param 2048
  log stdout format raw local0
defaults
  mode http
  log global
  # What it has of the same line; it captures no field unless told to.
  log-format '%[var(txn.host)] %ci - - [%trl] %{{+Q}}r %ST %B %{{+Q}}[var(txn.referer)] %{{+Q}}[var(txn.agent)] (backend %si:%sp)'
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client {idle}s
  timeout server {idle}s
  timeout http-request 10s
  timeout http-keep-alive {idle}s
frontend front
  bind 127.0.0.1:{http} backlog 4096
  bind 127.0.0.1:{https} backlog 4096 ssl crt {directory}/both.pem alpn h2,http/1.1
  http-request set-var(txn.host) req.hdr(host)
  http-request set-var(txn.referer) req.hdr(referer)
  http-request set-var(txn.agent) req.hdr(user-agent)
  http-request deny deny_status 403 unless {{ req.hdr(user-agent) -m found }}
  http-request set-var(txn.backend) req.hdr(host),field(1,:),lower,map_str({directory}/haproxy.map,ingress)
  http-request del-header Proxy
  http-request del-header Forwarded
  http-request del-header X-Forwarded-For
  http-request del-header X-Real-IP
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Original-URI %[pathq]
  http-request set-header Via "1.1 haproxy"
  http-response set-header Strict-Transport-Security "max-age=31622400" if {{ ssl_fc }}
  http-response set-header X-Clacks-Overhead "GNU Terry Pratchett"
  http-response set-header Permissions-Policy "browsing-topics=()"
  use_backend %[var(txn.backend)]
backend origin
  server origin 127.0.0.1:{origin} pool-max-conn -1
backend ingress
  server node 127.0.0.1:{ingress} check inter 10s downinter 5s rise 2 fall 2 slowstart 60s maxconn 1000 maxqueue 256 weight 100 pool-max-conn -1

# As in production: reference/legacy-system.md, section 6.
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen bytes
  bind 127.0.0.1:{tcp} backlog 4096
  balance roundrobin
  server bytes 127.0.0.1:{bytes} check inter 10s downinter 5s rise 2 fall 2 slowstart 60s maxconn 1000 maxqueue 256 weight 100
"""

# The same with splice(2), which is off unless asked for; with `option splice-auto` it was never used here.
HAPROXY_SPLICE = HAPROXY.replace("listen bytes\n", "listen bytes\n  option splice-request\n  option splice-response\n")


@dataclasses.dataclass(frozen=True)
class Kind:
    """How one proxy is configured and started. A new peer is a new row of `KINDS`."""

    configuration: str
    file: str
    command: list[str]
    version: list[str]
    # A line of its route table; portico has its routes from redis.
    route: str | None = None


KINDS = {
    "portico": Kind(PORTICO, "portico.toml", ["{portico}", "run", "--config"], ["{portico}", "--version"]),
    "nginx": Kind(NGINX, "nginx.conf", ["nginx", "-c"], ["nginx", "-v"], "{host} origin;\n"),
    "haproxy": Kind(HAPROXY, "haproxy.cfg", ["haproxy", "-db", "-f"], ["haproxy", "-v"], "{host} origin\n"),
    "haproxy-splice": Kind(
        HAPROXY_SPLICE, "haproxy-splice.cfg", ["haproxy", "-db", "-f"], ["haproxy", "-v"], "{host} origin\n"
    ),
}


class Proxy(harness.Process):
    """A running proxy with a plain and a TLS listener."""

    def __init__(self, name, setting, core=None):
        kind = KINDS[name]
        self.http_port, self.https_port, self.tcp_port = harness.free_ports(3)
        if kind.route:
            routes = "".join(kind.route.format(host=host) for host in setting.hosts())
            (setting.directory / f"{kind.command[0]}.map").write_text(routes)
        file = setting.directory / kind.file
        file.write_text(
            kind.configuration.format(
                http=self.http_port,
                https=self.https_port,
                tcp=self.tcp_port,
                origin=setting.origin_port,
                ingress=setting.ingress_port,
                grpc=setting.grpc_port,
                bytes=setting.bytes_port,
                redis=setting.redis_port,
                directory=setting.directory,
                workers=setting.workers,
                connections=setting.connections + 200,
                domain=harness.DOMAIN,
                idle=harness.IDLE_SECONDS,
            )
        )
        argv = [word.format(portico=setting.portico) for word in kind.command]
        super().__init__(name, [*argv, file], setting.directory, core)

    def listening(self):
        """Waits until both listeners take connections, without a request."""
        self.wait_for(self.http_port, self.https_port)
        if self.passes_bytes:
            self.wait_for(self.tcp_port)
        return self

    @property
    def passes_bytes(self):
        """Whether it has a TCP listener; nginx would need a module for that."""
        return "{tcp}" in KINDS[self.name].configuration

    def port(self, scheme):
        return self.https_port if scheme == "https" else self.http_port

    def url(self, scheme, path):
        return f"{scheme}://127.0.0.1:{self.port(scheme)}{path}"


def version(name, setting):
    argv = [word.format(portico=setting.portico) for word in KINDS[name].version]
    done = subprocess.run(argv, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().split("\n")[0]


def require(names):
    """Fails with what to install unless the programs of all these peers are there."""
    for name in names:
        if name != "portico":
            harness.need(KINDS[name].command[0], KINDS[name].command[0])
