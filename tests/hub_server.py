"""A Hub on loopback: the part of its HTTP API that huggingface_hub uses for downloads, with faults on demand.

As on the real one, small files come from the Hub itself and large ones through a redirect to storage on another
origin, which knows `Range` and must never see a token. Large is what has "large" sizes here: all safetensors.
"""

import hashlib
import json
import random
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hub_dirs import LAYER

TOKEN = "hf_" + "CanaryCanaryCanaryCanary0123456789"  # made up; found anywhere but in a header, it has leaked
_PAGE = 4
_BLOCK = 64 * 1024


@dataclass
class Repo:
    """A repository: its files by commit, its branches and tags, and who may see it."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False
    private: bool = False
    # path -> what the tree says instead of the truth
    tree_lies: dict[str, dict] = field(default_factory=dict)

    @classmethod
    def of(cls, files, commit="a" * 40, **options):
        return cls({commit: files}, {"main": commit}, **options)

    def commit_of(self, revision):
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Fault:
    """What goes wrong with requests whose path contains `where`: the first `times` of them."""

    where: str
    times: int = 1
    status: int | None = None
    headers: dict = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection is gone
    body: bytes | None = None  # instead of the file's
    stall: bool = False  # send half of the body, then nothing until `release` is set
    method: str = "GET"

    @property
    def spoils_content(self):
        """Whether it can only happen where the content comes from."""
        return self.stall or self.cut_after is not None or self.body is not None


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None
    is_storage: bool
    sent: int = 0


class HubServer:
    """`with HubServer({"org/name": Repo.of(files)}) as hub:`, then `hub.url` is an endpoint."""

    def __init__(self, repos):
        self.repos = repos
        self.faults = []
        self.requests = []
        self.release = threading.Event()
        self.ignores_range = False
        self.api_body = None
        self._lock = threading.Lock()
        self._hub = _serve(self, is_storage=False)
        self._storage = _serve(self, is_storage=True)
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.storage_url = f"http://127.0.0.1:{self._storage.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release.set()
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()

    def fault(self, where, **options):
        self.faults.append(Fault(where, **options))

    def take_fault(self, method, path, *, is_storage):
        with self._lock:
            for fault in self.faults:
                is_here = is_storage or not (fault.spoils_content and is_large(path))
                if fault.where in path and fault.method == method and fault.times > 0 and is_here:
                    fault.times -= 1
                    return fault
        return None

    def downloads(self, name=""):
        """The requests that moved content of files with `name` in their path."""
        return [r for r in self.requests if r.method == "GET" and r.sent and "/api/" not in r.path and name in r.path]

    def api_answers(self, body):
        """From now on every answer of the API is `body`."""
        self.api_body = body


def _serve(hub, *, is_storage):
    class Handler(_Handler):
        pass

    Handler.hub, Handler.is_storage = hub, is_storage
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        request = Request(
            self.command, path, self.headers.get("Range"), self.headers.get("Authorization"), self.is_storage
        )
        self.hub.requests.append(request)
        self.request_record = request
        self.fault_now = self.hub.take_fault(self.command, path, is_storage=self.is_storage)
        if self.fault_now and self.fault_now.status:
            return self._send(self.fault_now.status, b'{"error": "injected"}', self.fault_now.headers)
        if self.is_storage:
            return self._send_content(_content_by_hash(self.hub, path), {})
        api = re.fullmatch(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>revision|tree|refs)(/(?P<rev>.+))?", path)
        resolve = re.fullmatch(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)", path)
        match = api or resolve
        repo = self.hub.repos.get(match["repo"]) if match else None
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            return self._send_error(401, "RepoNotFound", "Repository not found")
        if api and api["what"] == "refs":
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo.refs.items()]
            return self._send_json({"branches": branches, "tags": [], "converts": []})
        commit = repo.commit_of(match["rev"])
        if commit is None:
            return self._send_error(404, "RevisionNotFound", f"Invalid rev id: {match['rev']}")
        if resolve:
            return self._send_file(repo, commit, resolve["file"])
        if api["what"] == "revision":
            return self._send_json({"id": api["repo"], "sha": commit, "private": repo.private, "siblings": []})
        return self._send_tree(repo, commit, match["repo"])

    def _send_tree(self, repo, commit, repo_id):
        entries = [_tree_entry(repo, path, content) for path, content in repo.commits[commit].items()]
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        headers = {}
        if start + _PAGE < len(entries):
            url = f"{self.hub.url}/api/models/{repo_id}/tree/{commit}?recursive=true&cursor={start + _PAGE}"
            headers["Link"] = f'<{url}>; rel="next"'
        self._send_json(entries[start : start + _PAGE], headers)

    def _send_file(self, repo, commit, path):
        if repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send_error(401, "GatedRepo", "Access to this model is restricted.")
        content = repo.commits[commit].get(path)
        if content is None:
            return self._send_error(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag_of(path, content)}"'}
        if not is_large(path):
            return self._send_content(content, headers)
        headers |= {"X-Linked-Etag": f'"{etag_of(path, content)}"', "X-Linked-Size": str(len(content))}
        headers["Location"] = f"{self.hub.storage_url}/{etag_of(path, content)}/{quote(path)}"
        return self._send(302, b"", headers)

    def _send_content(self, content, headers):
        fault = self.fault_now
        if content is None:
            return self._send(404, b"")
        if fault and fault.body is not None:
            content = fault.body
        start, status = 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and not self.hub.ignores_range:
            start, status = int(wanted[1]), 206
            if start >= len(content):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._send(status, content[start:], {**headers, "Accept-Ranges": "bytes"})

    def _send_json(self, value, headers=None):
        body = json.dumps(value).encode() if self.hub.api_body is None else self.hub.api_body
        self._send(200, body, {"Content-Type": "application/json", **(headers or {})})

    def _send_error(self, status, code, message):
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        fault, end = self.fault_now, len(body)
        if fault and fault.cut_after is not None:
            end = min(fault.cut_after, end)
        if fault and fault.stall:
            end = len(body) // 2
        try:
            for begin in range(0, end, _BLOCK):
                self.wfile.write(body[begin : min(begin + _BLOCK, end)])
                self.request_record.sent = min(begin + _BLOCK, end)
        except OSError:  # the client went away
            self.close_connection = True
            return
        if fault and fault.stall:
            while not self.hub.release.wait(0.05):
                time.sleep(0)
        if end < len(body):
            self.close_connection = True


def is_large(path):
    return path.endswith(".safetensors")


def etag_of(path, content):
    return hashlib.sha256(content).hexdigest() if is_large(path) else git_sha1(content)


def git_sha1(content):
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _tree_entry(repo, path, content):
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return {**entry, **repo.tree_lies.get(path, {})}


def _content_by_hash(hub, path):
    wanted = path.split("/")[1]
    contents = (c for repo in hub.repos.values() for files in repo.commits.values() for c in files.values())
    return next((content for content in contents if hashlib.sha256(content).hexdigest() == wanted), None)


def model_files(*, num_shards=2, shard_bytes=300_000, seed=0):
    """The files of a model that `check-model` accepts, with random weights of about the size given."""
    rows, width = 8, shard_bytes // 16
    shapes = {"model.embed_tokens.weight": [rows, width], "lm_head.weight": [rows, width]}
    shapes |= {f"model.layers.{n}.mlp.up_proj.weight": [rows, width] for n in range(num_shards - 2)}
    num_layers = max(1, num_shards - 2)
    layers = {f"model.layers.{n}.{name}": shape for n in range(num_layers) for name, (_, shape) in LAYER.items()}
    small = {name: shape for name, shape in layers.items() if name not in shapes} | {"model.norm.weight": [width]}
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": rows, "hidden_size": width}
    tokenizer = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "added_tokens": []}
    files = {
        "config.json": json.dumps({**config, "num_hidden_layers": num_layers, "tie_word_embeddings": False}).encode(),
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
    }
    names = [f"model-{n + 1:05d}-of-{num_shards:05d}.safetensors" for n in range(num_shards)]
    for number, (name, (tensor, shape)) in enumerate(zip(names, shapes.items(), strict=True)):
        files[name] = safetensors({tensor: shape, **(small if number == 0 else {})}, seed=seed + number)
    weight_map = {**dict(zip(shapes, names, strict=True)), **dict.fromkeys(small, names[0])}
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return files


def safetensors(shapes, seed=0):
    """A safetensors file of BF16 tensors with random bytes."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + random.Random(seed).randbytes(end)
