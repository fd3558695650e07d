"""A server in front of MLflow's that can be away, slow, or broken."""

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class TrackingProxy:
    """Answers on a port of its own, as `mode` says.

    Attributes:
        mode: `pass` hands on; `500` answers that; `cut` hands on and loses the answer; `hang`
            answers nothing.
        num_asked: requests so far.
    """

    def __init__(self, behind=None, mode="pass"):
        self.behind, self.mode, self.num_asked = behind, mode, 0
        self.is_over = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                proxy.num_asked += 1
                size = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(size)
                self.close_connection = proxy.mode != "pass"
                if proxy.mode == "hang":
                    proxy.is_over.wait(60)
                    return
                if proxy.mode == "500":
                    self.reply(500, b"it is broken")
                    return
                status, content = proxy.hand_on(self.command, self.path, body, self.headers)
                if proxy.mode != "cut":
                    self.reply(status, content)

            def reply(self, status, content):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that went away
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"

    def hand_on(self, method, path, body, headers):
        address = urlsplit(self.behind)
        link = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        with contextlib.closing(link):
            kept = {k: v for k, v in headers.items() if k.lower() not in ("host", "connection")}
            link.request(method, path, body, kept)
            answer = link.getresponse()
            return answer.status, answer.read()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()
