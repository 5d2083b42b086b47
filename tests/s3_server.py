"""A real S3 server on this machine (moto), which can be told to fail."""

import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BUCKET, ANY = "bucket", "any"


@dataclass
class Fault:
    """What the next `times` requests of a method to a path get instead of an answer."""

    method: str
    part: str
    """Of the path."""
    times: int
    seconds: float = 0.0
    """Silence; 0: an answer 503."""
    every: int = 1
    """One of so many of these requests."""
    asked: int = 0

    def is_due(self, method: str, path: str) -> bool:
        """Whether this request is one of those; it is counted."""
        if self.times <= 0 or self.method not in (method, ANY) or self.part not in path:
            return False
        self.asked += 1
        if self.asked % self.every:
            return False
        self.times -= 1
        return True


@dataclass
class S3Server:
    """Its address, what it was asked for, and its faults."""

    app: Callable[..., Any]
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        for fault in self.faults:
            if fault.is_due(method, path):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                time.sleep(fault.seconds)
                start_response("503 Slow Down", [("Content-Type", "text/plain")])
                return [b"slow down"]
        return self.app(environ, start_response)

    def fail(
        self, method: str, part: str, times: int, *, seconds: float = 0.0, every: int = 1
    ) -> Fault:
        """From now on; the fault's `times` counts down. A method `ANY` is each of them."""
        self.faults.append(Fault(method, part, times, seconds, every))
        return self.faults[-1]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start one, with an empty bucket."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None:
            pass

    server = S3Server(DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", 0, server, threaded=True, request_handler=Quiet)
    server.url = f"http://127.0.0.1:{http.port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    request = urllib.request.Request(f"{server.url}/{BUCKET}", method="PUT")
    urllib.request.urlopen(request).close()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def s3_environment(url: str) -> dict[str, str]:
    """What a process needs to find the server; its tries end soon."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "EXTPOSE_S3_TRIES": "4",
        "EXTPOSE_S3_TIMEOUT": "2",
    }


def use_s3(url: str) -> None:
    """For this process and those that it starts."""
    os.environ.update(s3_environment(url))
