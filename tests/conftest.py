"""What tests of downloads share: no network but a server on 127.0.0.1."""

import http.server
import socket
import threading

import pytest


@pytest.fixture
def sealed(monkeypatch, tmp_path):
    """No data folder, an empty cache, and no way out but 127.0.0.1."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("BN_HELPERS_DATA", raising=False)
    monkeypatch.setenv("BN_HELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))  # should the line above not hold
    asked = socket.getaddrinfo

    def local_only(host, *args, **kwargs):
        if host != "127.0.0.1":
            raise socket.gaierror(f"no network in tests, asked for {host}")
        return asked(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", local_only)


class Served:
    """The local server: what it gives (by path), what it was asked for, whether it breaks off."""

    def __init__(self, url):
        self.url = url
        self.files = {}
        self.asked = []
        self.cut = False


@pytest.fixture
def served():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found.asked.append(self.path)
            if self.path not in found.files:
                self.send_error(404)
                return
            body = found.files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if found.cut else body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Served(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()
