"""A Hub on the loopback: the endpoints that the Hub's own client uses, over `hub_store`, and faults on demand.

Large files come from a second port, as the Hub's come from another host. Run it by hand with
``python tests/hub_server.py FOLDER``; it prints the address for ``HF_ENDPOINT``. Whoever sends the token ``hf_NAME`` is
NAME and may write in the namespace NAME; ``hf_NAME_read`` may only read.
"""

import http.server
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hub_endpoints import Cdn, Main
from hub_handler import Fault, Handler, Request
from hub_store import Store


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # clients go away as they like
            super().handle_error(request, client_address)


class Hub:
    """The server.

    Attributes:
        store: its repositories.
        faults: see `Fault`; the first that fits is taken.
        requests: what was asked so far.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self._meetings: dict[str, threading.Barrier] = {}
        self._servers = [self._serve(Main), self._serve(Cdn)]
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        self._running[self.url] = self

    _running: ClassVar[dict[str, "Hub"]] = {}

    @classmethod
    def of(cls, url: str) -> "Hub":
        """Return the server at an address."""
        return cls._running[url]

    def _serve(self, handler: type[Handler]) -> http.server.ThreadingHTTPServer:
        bound = type(handler.__name__, (handler,), {"hub": self})
        server = Server(("127.0.0.1", 0), bound)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def close(self) -> None:
        self.closed.set()
        self._running.pop(self.url, None)
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def meet(self, where: str, parties: int) -> None:
        """Let the next requests that fit ``where`` wait until there are ``parties`` of them."""
        self._meetings[where] = threading.Barrier(parties)

    def wait_for_others(self, line: str) -> None:
        for where, barrier in list(self._meetings.items()):
            if re.search(where, line) and not barrier.broken:
                try:
                    if barrier.wait(30) == 0:
                        self._meetings.pop(where, None)
                except threading.BrokenBarrierError:
                    pass

    def fault(self, line: str, kinds: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.what in kinds.split() and re.search(fault.where, line) and fault.times != fault.seen:
                    fault.seen += 1
                    return fault
        return None

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        self.faults = [*faults, *self.faults]
        try:
            yield
        finally:
            self.faults = [fault for fault in self.faults if fault not in faults]

    def asked(self, where: str) -> list[Request]:
        return [request for request in self.requests if re.search(where, f"{request.method} {request.path}")]


if __name__ == "__main__":
    hub = Hub(Path(sys.argv[1]))
    print(hub.url, flush=True)
    threading.Event().wait()
