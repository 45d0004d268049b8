"""The part of the Hugging Face hub's HTTP interface that an upload needs, on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HubStub:
    """The repositories that were made, and the files of each.

    Attributes:
        address: of the server.
        tokens: of the requests, in their order.
        refuses: the HTTP status with which every request is refused; 0 for none.
    """

    def __init__(self) -> None:
        self.address = ""
        self.files: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        self.private: dict[str, bool | None] = {}
        self.tokens: list[str | None] = []
        self.refuses = 0

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            fields = json.loads(body)
            repo_id = f"{fields.get('organization') or 'me'}/{fields['name']}"
            self.files.setdefault(repo_id, {})
            # huggingface_hub 2 says visibility where 1 said private
            self.private[repo_id] = fields.get("visibility") == "private" or fields.get("private")
            return {"url": f"{self.address}/{repo_id}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        owner, name, verb, _revision = path.removeprefix("/api/models/").split("/")
        repo_id = f"{owner}/{name}"
        assert repo_id in self.files, path
        if verb == "preupload":
            names = [entry["path"] for entry in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return {"files": [{"path": name, **modes} for name in names]}
        assert verb == "commit", path
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                self.messages.append(entry["value"]["summary"])
            else:
                assert entry["key"] == "file"
                self.files[repo_id][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        oid = "0" * 40
        return {"commitUrl": f"{self.address}/{repo_id}/commit/{oid}", "commitOid": oid, "success": True}


@contextmanager
def hub_stub() -> Iterator[HubStub]:
    """A hub that runs for the length of the context."""
    stub = HubStub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            stub.tokens.append(self.headers.get("Authorization"))
            answer = {"error": "not you"} if stub.refuses else stub.answer(self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(stub.refuses or 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
