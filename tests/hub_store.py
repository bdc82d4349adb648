"""Model repositories in a folder, as the Hub keeps them: commits, branches, tags, pull requests, git and LFS files."""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

LFS = re.compile(r".*\.(safetensors|png|bin|pth)")
"""What the Hub's default ``.gitattributes`` sends to LFS."""


class StaleError(Exception):
    """A commit names a parent that is no longer the branch's head."""


class MissingError(Exception):
    """A commit names something that is not there."""


@dataclass
class Entry:
    """A file at a commit. ``oid``: git's name of the blob, or of the LFS pointer; ``sha256``: of an LFS file."""

    oid: str
    size: int
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass
class State:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repo:
    """One repository: ``state.json``, ``commits/``, ``blobs/`` and ``lfs/``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"{folder.parent.name}/{folder.name}"
        self.lock = threading.RLock()

    @property
    def exists(self) -> bool:
        return (self.folder / "state.json").is_file()

    @property
    def state(self) -> State:
        return State(**json.loads((self.folder / "state.json").read_text()))

    def _write(self, state: State) -> None:
        temp = self.folder / "state.json.tmp"
        temp.write_text(json.dumps(asdict(state), indent=1))
        temp.replace(self.folder / "state.json")

    def create(self, private: bool = False) -> bool:
        """Make the repository with its first commit; False where it exists."""
        with self.lock:
            if self.exists:
                return False
            for part in ("commits", "blobs", "lfs"):
                (self.folder / part).mkdir(parents=True)
            self._write(State(private=private))
            data = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
            first = self._commit(None, {".gitattributes": self._blob(data)}, "initial commit")
            self._write(State(private=private, branches={"main": first}))
            return True

    def set(self, **changes: Any) -> None:
        with self.lock:
            state = self.state
            for name, value in changes.items():
                setattr(state, name, value)
            self._write(state)

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a branch, tag, ``refs/pr/N`` or commit names."""
        state = self.state
        named = {**state.tags, **state.pulls, **state.branches}
        if revision in named:
            return named[revision]
        found = [file.stem for file in (self.folder / "commits").glob(f"{revision}*.json")]
        return found[0] if len(revision) >= 7 and len(found) == 1 else None

    def info(self, commit: str) -> dict[str, Any]:
        return json.loads((self.folder / "commits" / f"{commit}.json").read_text())

    def tree(self, commit: str) -> dict[str, Entry]:
        return {path: Entry(**entry) for path, entry in sorted(self.info(commit)["tree"].items())}

    def read(self, entry: Entry) -> bytes:
        return (self.folder / ("lfs" if entry.sha256 else "blobs") / entry.etag).read_bytes()

    def file(self, path: str, revision: str = "main") -> bytes:
        commit = self.resolve(revision)
        assert commit is not None
        return self.read(self.tree(commit)[path])

    def paths(self, revision: str = "main") -> list[str]:
        commit = self.resolve(revision)
        assert commit is not None
        return list(self.tree(commit))

    def log(self, revision: str = "main") -> list[str]:
        """Return the messages of the commits that lead to a revision, the latest first."""
        messages, commit = [], self.resolve(revision)
        while commit is not None:
            info = self.info(commit)
            messages.append(info["message"])
            commit = info["parent"]
        return messages

    def card(self, commit: str) -> dict[str, Any]:
        entry = self.tree(commit).get("README.md")
        return {} if entry is None else metadata(self.read(entry).decode()) or {}

    def store_lfs(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        with self.lock:
            (self.folder / "lfs" / "incoming").write_bytes(data)
            (self.folder / "lfs" / "incoming").replace(self.folder / "lfs" / sha256)
        return sha256

    def has_lfs(self, sha256: str) -> bool:
        return (self.folder / "lfs" / sha256).is_file()

    def put(self, files: dict[str, bytes], message: str = "by hand", branch: str = "main") -> str:
        """Commit files directly, as somebody else does with git."""
        lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": message}}]
        for path, data in files.items():
            if LFS.fullmatch(path):
                lines.append({"key": "lfsFile", "value": {"path": path, "oid": self.store_lfs(data)}})
            else:
                lines.append({"key": "file", "value": {"path": path, "content": base64.b64encode(data).decode()}})
        return self.apply(branch, lines)[0]

    def apply(self, branch: str, lines: list[dict[str, Any]], pull: bool = False) -> tuple[str, int | None]:
        """Carry out a commit request.

        Returns:
            The commit, and the number of the pull request if it was to be one.

        Raises:
            StaleError: its parent is not the branch's head.
            MissingError: an LFS file that was not uploaded, or a file to delete that is not there.
        """
        with self.lock:
            state = self.state
            header, head = lines[0]["value"], state.branches[branch]
            parent = header.get("parentCommit") or head
            if not pull and not head.startswith(parent):
                raise StaleError(f"{parent} is not {head}")
            tree = self.tree(parent if pull else head)
            for line in lines[1:]:
                value = line["value"]
                path = value["path"]
                if line["key"] == "file":
                    tree[path] = self._blob(base64.b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    if not self.has_lfs(value["oid"]):
                        raise MissingError(f"LFS pointer {value['oid']} of {path} points to no file")
                    size = (self.folder / "lfs" / value["oid"]).stat().st_size
                    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {size}\n"
                    tree[path] = Entry(git_oid(pointer.encode()), size, value["oid"])
                elif line["key"] == "deletedFile":
                    if tree.pop(path, None) is None:
                        raise MissingError(f"A file with this name doesn't exist: {path}")
                else:
                    raise MissingError(f"unknown operation {line['key']}")
            commit = self._commit(parent, tree, header["summary"])
            number = None
            if pull:
                number = len(state.pulls) + 1
                state.pulls[f"refs/pr/{number}"] = commit
            else:
                state.branches[branch] = commit
            self._write(state)
            return commit, number

    def _blob(self, data: bytes) -> Entry:
        oid = git_oid(data)
        (self.folder / "blobs" / oid).write_bytes(data)
        return Entry(oid, len(data))

    def _commit(self, parent: str | None, tree: dict[str, Entry], message: str) -> str:
        content = {"parent": parent, "message": message, "time": time.time_ns()}
        text = json.dumps({**content, "tree": {path: asdict(entry) for path, entry in tree.items()}}, indent=1)
        commit = hashlib.sha1(text.encode()).hexdigest()
        (self.folder / "commits" / f"{commit}.json").write_text(text)
        return commit


class Store:
    """All repositories, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._repos: dict[str, Repo] = {}
        self._lock = threading.Lock()

    def repo(self, name: str) -> Repo:
        with self._lock:
            if name not in self._repos:
                self._repos[name] = Repo(self.folder / name)
            return self._repos[name]

    def all(self) -> list[Repo]:
        names = sorted(file.parent.relative_to(self.folder).as_posix() for file in self.folder.glob("*/*/state.json"))
        return [self.repo(name) for name in names]


def metadata(card: str) -> dict[str, Any] | None:
    """Return the YAML at the top of a model card; None where it is not a mapping."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", card, re.DOTALL)
    if found is None:
        return {}
    try:
        parsed = yaml.safe_load(found[1])
    except yaml.YAMLError:
        return None
    return parsed if isinstance(parsed, dict) else None
