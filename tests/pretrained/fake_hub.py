"""A hub of this process: what `huggingface_hub` asks of a server, for tests without a network."""

import base64
import hashlib
import http.server
import json
import re
import threading
from contextlib import contextmanager

TOKEN = "hf_of_the_test"


class Hub(http.server.ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: by `owner/name`, a list of commits, each `(id, {path: content})`.
        private: names of repositories that need the token.
        objects: large files by their hash.
        asked: the requests, `(method, path)`.
        told: the tokens that the storage was shown, which is none of its business.
        broken: how many more downloads of large files break off in the middle.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        # Hubs keep large files on other machines; this is one by its name.
        self.storage = self.url.replace("127.0.0.1", "localhost")
        self.repositories, self.private, self.objects = {}, set(), {}
        self.asked, self.told, self.broken = [], [], 0

    def files(self, repository: str, revision: str) -> tuple[str, dict] | None:
        """The commit and files of a revision."""
        commits = self.repositories.get(repository, [])
        if revision == "main":
            return commits[-1] if commits else None
        return next((each for each in commits if each[0] == revision), None)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status=200, content=b"", **headers):
        body = json.dumps(content).encode() if isinstance(content, dict) else content
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self):
        server, path, body = self.server, self.path.split("?")[0], self.body()
        server.asked.append(("POST", path))
        if path == "/api/validate-yaml":
            self.answer(content={"errors": [], "warnings": []})
        elif not self.known():
            self.answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if wanted["organization"] == "somebody-else":
                self.answer(403, {"error": "You don't have the rights to create a model there"})
                return
            taken = name in server.repositories
            server.repositories.setdefault(name, [])
            if wanted.get("private") or wanted.get("visibility") == "private":
                server.private.add(name)
            self.answer(409 if taken else 200, {"url": f"{server.url}/{name}"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith((".h5", ".png")) else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            self.answer(content={"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{server.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.answer(content={"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404)

    def commit(self, repository: str, lines: list[dict]):
        commits = self.server.repositories[repository]
        files = dict(commits[-1][1]) if commits else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        identifier = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        commits.append((identifier, files))
        address = f"{self.server.url}/{repository}/commit/{identifier}"
        self.answer(content={"commitUrl": address, "commitOid": identifier})

    def do_PUT(self):
        self.server.asked.append(("PUT", self.path))
        content = self.body()
        digest = hashlib.sha256(content).hexdigest()
        if self.path != f"/lfs/{digest}":
            self.answer(400, {"error": "another hash"})
            return
        self.server.objects[digest] = content
        self.answer()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, path = self.server, self.path.split("?")[0]
        server.asked.append((self.command, path))
        if large := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            server.told += filter(None, [self.headers.get("Authorization")])
            self.large(server.objects[large[1]])
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found is None:
            self.answer(404)
            return
        name, revision, filename = found.groups()
        if name in server.private and not self.known():
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return
        commit = server.files(name, revision)
        if commit is None:
            self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return
        identifier, files = commit
        if filename not in files:
            self.answer(404, X_Repo_Commit=identifier, X_Error_Code="EntryNotFound")
            return
        content = files[filename]
        digest = hashlib.sha256(content).hexdigest()
        if digest in server.objects:
            self.answer(
                302,
                Location=f"{server.storage}/lfs/{digest}",
                X_Repo_Commit=identifier,
                X_Linked_Etag=f'"{digest}"',
                X_Linked_Size=str(len(content)),
            )
        else:
            self.answer(content=content, X_Repo_Commit=identifier, ETag=f'"{digest}"')

    def large(self, content: bytes):
        """A file, or the part that is asked for; the first half where the network breaks."""
        start = int((re.search(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        part = content[start:]
        headers = {"Content_Length": str(len(part)), "Accept_Ranges": "bytes"}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and self.server.broken:
            self.server.broken -= 1
            part = part[: len(part) // 2]
            self.close_connection = True
        self.answer(206 if start else 200, part, **headers)

    def log_message(self, *args):
        """Keeps the test output clean."""


@contextmanager
def running():
    """A hub that answers while the context lasts."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
