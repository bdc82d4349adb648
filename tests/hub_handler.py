"""What both ports of the loopback Hub do alike: read a request, answer it, refuse it, and go wrong where asked."""

import http.server
import json
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub_server import Hub


@dataclass
class Fault:
    """What goes wrong with requests.

    Attributes:
        where: pattern of ``METHOD PATH``.
        what: ``status`` (with ``status`` and ``headers``), ``drop`` (no answer, the connection is closed), ``hang`` (it
            is not), ``lost`` (done, but no answer),
            ``whole`` (no ranges), and for bodies ``cut``, ``stall`` (after ``after`` bytes), ``corrupt`` (one bit) or
            ``short`` (without the last ``after`` bytes).
        times: how often; None: always.
    """

    where: str
    what: str
    status: int = 503
    after: int = 1000
    times: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seen: int = 0


class Refusal(Exception):  # noqa: N818
    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **headers}
        if code is not None:
            self.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]


class Handler(http.server.BaseHTTPRequestHandler):
    hub: "Hub"
    protocol_version = "HTTP/1.1"
    timeout = 60

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.serve
        raise AttributeError(name)

    def serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        self.route, self.query = urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query)
        self.line = f"{self.command} {urllib.parse.unquote(self.path)}"
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, urllib.parse.unquote(self.path), dict(self.headers)))
        try:
            if (fault := self.hub.fault(self.line, "status drop hang")) is not None:
                if fault.what == "hang":
                    self.hub.closed.wait(30)
                if fault.what != "status":
                    self.close_connection = True
                    return
                raise Refusal(fault.status, f"fault {fault.status}", **fault.headers)
            self.hub.wait_for_others(self.line)
            self.dispatch()
        except Refusal as refusal:
            body = json.dumps({"error": str(refusal)}).encode()
            self.reply(body, {**refusal.headers, "Content-Type": "application/json"}, refusal.status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def dispatch(self) -> None:
        raise NotImplementedError

    def reply(self, body: bytes = b"", headers: dict[str, str] | None = None, status: int = 200) -> None:
        if self.hub.fault(self.line, "lost") is not None:
            self.close_connection = True
            return
        fault = None
        if status < 300 and self.command == "GET":
            fault = self.hub.fault(self.line, "cut stall corrupt short")
        if fault is not None and fault.what == "corrupt" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if fault is not None and fault.what == "short":
            body = body[: -fault.after]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.what in ("cut", "stall"):
            self.wfile.write(body[: fault.after])
            self.wfile.flush()
            self.close_connection = True
            if fault.what == "stall":
                self.hub.closed.wait(30)
            return
        self.wfile.write(body)

    def json(self, value: Any, status: int = 200) -> None:
        self.reply(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)

    def ranged(self, data: bytes, headers: dict[str, str]) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if found is None or self.hub.fault(self.line, "whole") is not None:
            self.reply(data, headers)
            return
        start, end = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
        if start > end:
            raise Refusal(416, "range cannot be satisfied", **{"Content-Range": f"bytes */{len(data)}"})
        headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}
        self.reply(data[start : end + 1], headers, 206)

    def log_message(self, format: str, *args: Any) -> None:
        pass
