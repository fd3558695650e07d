"""What stands in front of an HTTP server (MLflow's, S3) and can be away, slow, or broken."""

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

OWN_HEADERS = {"connection", "transfer-encoding", "server", "date"}


class FaultyProxy:
    """Answers on a port of its own, as `mode` says.

    Attributes:
        mode: `pass` hands on; `500` answers that; `cut` hands on and loses the answer; `hang`
            answers nothing; `slow` hands on three seconds later.
        num_asked: requests so far.
        fails_after: so many of them are answered, those that follow with 500; None: see `mode`.
    """

    def __init__(self, behind=None, mode="pass"):
        self.behind, self.mode, self.num_asked = behind, mode, 0
        self.fails_after = None
        self.is_over = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                proxy.num_asked += 1
                body = self.read_body()
                self.close_connection = proxy.mode not in ("pass", "slow")
                if proxy.mode == "hang":
                    proxy.is_over.wait(60)
                    return
                is_late = proxy.fails_after is not None and proxy.num_asked > proxy.fails_after
                if proxy.mode == "500" or is_late:
                    self.reply(500, b"it is broken")
                    return
                if proxy.mode == "slow":
                    proxy.is_over.wait(3)
                answered = proxy.hand_on(self.command, self.path, body, self.headers)
                if proxy.mode != "cut":
                    self.reply(*answered)

            def read_body(self):
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass  # what may follow the last piece
                return b"".join(pieces)

            def reply(self, status, content, headers=()):
                self.send_response(status)
                kept = {k: v for k, v in headers if k.lower() not in OWN_HEADERS}
                if self.command != "HEAD":  # there, it is the length of what is not sent
                    kept["Content-Length"] = str(len(content))
                for name, value in kept.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_HEAD = do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

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
            left_out = ("host", "connection", "transfer-encoding", "expect")
            kept = {k: v for k, v in headers.items() if k.lower() not in left_out}
            link.request(method, path, body, kept)
            answer = link.getresponse()
            return answer.status, answer.read(), answer.getheaders()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()
