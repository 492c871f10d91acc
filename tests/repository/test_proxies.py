"""The example proxies: their limits fit the service's own, and clicks pass through them where the programs are here."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.settings import read
from backend.web.http_connection import ConnectionLimits
from tests.support.certificates import company
from tests.support.processes import free_port, serving
from tests.support.wire_bodies import click_on, data_uri, encoded

FOLDER = Path(__file__).parents[2] / "deploy" / "proxy"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="reads the source tree's own files")
NAMES = ("nginx.conf", "Caddyfile")


def text(name):
    return (FOLDER / name).read_text()


def seconds(name, *directives):
    """The time-outs that a proxy's file sets by these names."""
    matches = [re.search(rf"^\s*{directive} (\d+)s\b", text(name), re.MULTILINE) for directive in directives]
    assert all(matches), f"{name} sets not all of {directives}"
    return [int(each[1]) for each in matches]


@pytest.mark.parametrize("name", NAMES)
def test_a_proxy_takes_the_largest_body_that_the_service_takes(name):
    [megabytes] = re.findall(r"(?:client_max_body_size|max_size) (\d+)(?:m;|MB)", text(name))
    assert int(megabytes) >= read({}).max_body_mb


@pytest.mark.parametrize(
    ("name", "directive"), [("nginx.conf", "proxy_read_timeout"), ("Caddyfile", "response_header_timeout")]
)
def test_a_proxy_waits_longer_than_a_click(name, directive):
    [waits_s] = seconds(name, directive)
    assert waits_s > read({}).predict_budget_s


@pytest.mark.parametrize(("name", "directive"), [("nginx.conf", "keepalive_timeout"), ("Caddyfile", "keepalive")])
def test_a_proxy_gives_idle_connections_up_before_the_service_does(name, directive):
    [idle_s] = seconds(name, directive)
    assert idle_s < ConnectionLimits().idle_s


def test_slow_callers_have_no_longer_than_at_the_service():
    limits = ConnectionLimits()
    assert seconds("nginx.conf", "client_header_timeout", "client_body_timeout") <= [limits.head_s, limits.body_s]
    assert seconds("Caddyfile", "read_header", "read_body") <= [limits.head_s, limits.body_s]


@contextmanager
def running(command, port, log):
    """Run a proxy until the end of the block, from when it listens."""
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink) as process:
        try:
            while process.poll() is None:
                with socket.socket() as probe:
                    probe.settimeout(1)
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()


def masks(url, context=None):
    """The number of regions that a click through a proxy gets."""
    request = urllib.request.Request(
        f"{url}/predict", encoded(click_on(data_uri())), {"Content-Type": "application/json"}
    )
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    with urllib.request.build_opener(*handlers).open(request, timeout=60) as answer:
        return len(json.loads(answer.read())["results"][0]["result"])


NGINX = """\
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr; {user}
events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/a; uwsgi_temp_path {folder}/b; scgi_temp_path {folder}/c;
    include {folder}/site.conf;
}}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_a_click_passes_through_nginx(tmp_path):
    port = free_port()
    issuer = company()
    issued, authority = issuer.authority.issue_cert("localhost"), issuer.write(tmp_path / "authority.pem")
    (tmp_path / "site.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    (tmp_path / "site.key").write_bytes(issued.private_key_pem.bytes())
    with serving(tmp_path) as server:
        site = (
            text("nginx.conf")
            .replace("127.0.0.1:9090", f"127.0.0.1:{server.port}")
            .replace("listen 443", f"listen {port}")
        )
        site = re.sub(r"/etc/ssl/sam\.example\.com", str(tmp_path / "site"), site)
        (tmp_path / "site.conf").write_text(site)
        user = "user root;" if (tmp_path.stat().st_uid == 0) else ""
        (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, user=user))
        command = ["nginx", "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
        subprocess.run([*command, "-t"], check=True)
        with running(command, port, tmp_path / "nginx.log"):
            assert masks(f"https://localhost:{port}", ssl.create_default_context(cafile=authority)) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("caddy") is None, reason="needs Caddy")
def test_a_click_passes_through_caddy(tmp_path):
    port, file = free_port(), tmp_path / "Caddyfile"
    with serving(tmp_path) as server:
        site = text("Caddyfile").replace("127.0.0.1:9090", f"127.0.0.1:{server.port}")
        site = site.replace("sam.example.com {", f"http://localhost:{port} {{").replace(
            "{\n\tservers", "{\n\tadmin off\n\tservers", 1
        )
        file.write_text(site)
        command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]
        with running(command, port, tmp_path / "caddy.log"):
            assert masks(f"http://localhost:{port}") == 1
