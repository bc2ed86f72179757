"""A stand-in for a W&B server on loopback: it shows what our client sends and bears, not what their service does."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Literal

Behaviour = Literal["answers", "fails", "refuses", "hangs"]
"""`refuses`: the key; `hangs`: takes connections and says nothing."""

STATUS = {"answers": 200, "fails": 500, "refuses": 401}
ENTITY = "nobody"


@dataclass
class StandIn:
    """What arrived."""

    behaviour: Behaviour
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """Paths; of GraphQL the operations."""
    keys: set[str] = field(default_factory=set)
    """What clients said who they are with."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id: what clients told of a run when they started or continued it."""
    starts: list[str] = field(default_factory=list)
    """Ids of runs, each time that one was asked for."""
    history: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """By run id."""
    exits: dict[str, int] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """By the path of their URL: media, and contents and manifests of artifacts."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Type by name, of those that were committed."""
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id: workspaces that were saved."""
    released: Event = field(default_factory=Event)
    """Set when the server ends, so that what hangs ends too."""
    _begun: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name and type by id, of artifacts."""

    def graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer one operation; with nothing where it is not known."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = found.group(1) if found else ""
        self.requests.append(operation)
        given = given.get("input", given)
        match operation:
            case "Viewer" | "GetDefaultEntity":
                teams = {"edges": [{"node": {"name": ENTITY}}]}
                user = {"id": "v", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "admin": False}
                return {"viewer": {**user, "teams": teams}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "RunResumeStatus":
                self.starts.append(given["name"])
                bucket = self._bucket(given["name"]) if given["name"] in self.runs else None
                return {"model": {"id": "p", "name": "p", "entity": {"name": ENTITY}, "bucket": bucket}}
            case "UpsertBucket":
                inserted = given["name"] not in self.runs
                run = self.runs.setdefault(given["name"], {})
                run.update({key: value for key, value in given.items() if value is not None})
                return {"upsertBucket": {"bucket": self._bucket(given["name"]), "inserted": inserted}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": self._put(given["run"], name)} for name in given["files"]]
                return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
            case "UpsertView2":
                identity = given.get("id") or f"view-{len(self.views)}"
                self.views[identity] = given
                return {"upsertView": {"view": {"id": identity, "name": given["name"]}, "inserted": "id" not in given}}
            case _:
                return self._artifact(operation, given)

    def _artifact(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "CreateArtifact":
                identity = f"artifact-{len(self._begun)}"
                self._begun[identity] = (given["artifactCollectionName"], given["artifactTypeName"])
                sequence = {"id": f"of-{identity}", "latestArtifact": None}
                artifact = {"id": identity, "state": "PENDING", "artifactSequence": sequence}
                return {"createArtifact": {"artifact": artifact}}
            case "CreateArtifactManifest":
                url = self._put("manifest", given["artifactID"])
                file = {"id": given["artifactID"], "name": "manifest", "uploadUrl": url, "uploadHeaders": []}
                return {"createArtifactManifest": {"artifactManifest": {"id": given["artifactID"], "file": file}}}
            case "CreateArtifactFiles":
                files = [
                    {
                        "storagePath": one["name"],
                        "uploadUrl": self._put(self._begun[one["artifactID"]][0], one["name"]),
                        "uploadHeaders": [],
                        "uploadMultipartUrls": None,
                        "artifact": {"id": one["artifactID"]},
                    }
                    for one in given["artifactFiles"]
                ]
                return {"createArtifactFiles": {"files": {"edges": [{"node": file} for file in files]}}}
            case "CommitArtifact":
                name, kind = self._begun[given["artifactID"]]
                self.artifacts[name] = kind
                return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
            case _:
                return {}

    def file_stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """Take lines of a run's history, and its end."""
        lines = (sent.get("files") or {}).get("wandb-history.jsonl")
        if lines:
            self.history[run_id][lines["offset"] :] = map(json.loads, lines["content"])
        if sent.get("complete"):
            self.exits[run_id] = sent["exitcode"]

    def _put(self, *names: str) -> str:
        return "/".join([self.url, "put", *names])

    def _bucket(self, run_id: str) -> dict[str, Any]:
        run, history = self.runs[run_id], self.history[run_id]
        return {
            "id": f"bucket-{run_id}",
            "name": run_id,
            "displayName": run["displayName"],
            "sweepName": None,
            "project": {"id": "p", "name": run["project"], "entity": {"id": "e", "name": ENTITY}},
            "historyLineCount": len(history),
            "historyTail": json.dumps([json.dumps(row) for row in history[-1:]]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "config": run.get("config", "{}"),
            "summaryMetrics": "{}",
            "wandbConfig": '{"t": 1}',
            "tags": [],
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _treat(self) -> None:
        server = self.stand_in
        if self.headers.get("Authorization"):
            server.keys.add(self.headers["Authorization"])
        if server.behaviour == "hangs":
            server.requests.append(self.path)
            server.released.wait()
            self.close_connection = True
            return
        body = self._body()
        status = 200 if self.path == "/healthz" and server.behaviour == "refuses" else STATUS[server.behaviour]
        content = json.dumps(self._answer(body) if server.behaviour == "answers" else {"error": "no"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _treat  # noqa: N815 - the names that http.server looks for

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, body: bytes) -> dict[str, Any]:
        server = self.stand_in
        if self.path == "/graphql":
            request = json.loads(body)
            return {"data": server.graphql(request["query"], request.get("variables") or {})}
        server.requests.append(self.path)
        if stream := re.search(r"/([^/]+)/file_stream$", self.path):
            server.file_stream(stream.group(1), json.loads(body))
        elif self.path.startswith("/put/"):
            server.files[self.path.removeprefix("/put/")] = body
        return {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Print nothing: clients go when they like."""


@contextmanager
def stand_in(behaviour: Behaviour) -> Iterator[StandIn]:
    """Serve on a free port of loopback."""
    server = StandIn(behaviour)
    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"stand_in": server})) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            http.shutdown()
            thread.join()
