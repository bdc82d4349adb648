"""The pages of the loopback Hub, and of the host that has its large files."""

import hashlib
import json
import re
import urllib.parse
from typing import Any

from hub_handler import Handler, Refusal
from hub_store import LFS, Entry, MissingError, Repo, StaleError, git_oid, metadata

NAME = r"(?P<repo>[\w.-]+/[\w.-]+)"


class Cdn(Handler):
    """Stores and serves LFS files. Its addresses are signed, so a token has no business here."""

    def dispatch(self) -> None:
        if self.headers.get("Authorization"):
            raise Refusal(400, "a token was sent to another host")
        found = re.fullmatch(rf"/{NAME}/(?P<sha>[0-9a-f]{{64}})", self.route)
        if found is None:
            raise Refusal(404, "no such object")
        repo = self.hub.store.repo(found["repo"])
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != found["sha"]:
                raise Refusal(400, "the content is not what its name says")
            repo.store_lfs(self.body)
            self.reply(headers={"ETag": f'"{found["sha"]}"'})
        elif repo.has_lfs(found["sha"]):
            data = (repo.folder / "lfs" / found["sha"]).read_bytes()
            self.ranged(data, {"ETag": '"a CDN\'s own"', "Accept-Ranges": "bytes"})
        else:
            raise Refusal(404, "no such object")


class Main(Handler):
    """The Hub itself."""

    def dispatch(self) -> None:
        for method, pattern, action in ROUTES:
            found = re.fullmatch(pattern, self.route)
            if found is not None and self.command in method.split():
                action(self, **found.groupdict())
                return
        raise Refusal(404, f"no such page: {self.line}")

    def user(self) -> str | None:
        """Return who asks; None: nobody in particular."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        found = re.fullmatch(r"Bearer hf_([a-z]+)(_read)?", header)
        if found is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return found[1]

    def readable(self, name: str) -> Repo:
        repo, user = self.hub.store.repo(name), self.user()
        if not repo.exists or (repo.state.private and user != name.split("/")[0]):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, name: str) -> Repo:
        repo, user = self.readable(name), self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user != name.split("/")[0] or self.headers["Authorization"].endswith("_read"):
            raise Refusal(403, f"You don't have the rights to write to {name}")
        return repo

    def commit(self, repo: Repo, revision: str) -> str:
        commit = repo.resolve(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def branch(self, repo: Repo, name: str) -> str:
        if name not in repo.state.branches:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return name

    def whoami(self) -> None:
        if (user := self.user()) is None:
            raise Refusal(401, "Invalid username or password.")
        self.json({"type": "user", "name": user, "orgs": []})

    def create(self) -> None:
        asked = json.loads(self.body)
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        owner = asked.get("organization") or user
        if owner != user or self.headers["Authorization"].endswith("_read"):
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        name = f"{owner}/{asked['name']}"
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        fresh = self.hub.store.repo(name).create(private)
        made = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        self.json(made if fresh else {**made, "error": "You already created this model repo"}, 200 if fresh else 409)

    def validate(self) -> None:
        parsed = metadata(json.loads(self.body)["content"])
        if parsed is None:
            self.json({"errors": [{"message": "the metadata is no YAML mapping"}], "warnings": []}, 400)
            return
        relations = ("adapter", "merge", "quantized", "finetune", None)
        errors = [] if parsed.get("base_model_relation") in relations else ["unknown base_model_relation"]
        for model in parsed.get("model-index") or []:
            for result in model["results"]:
                complete = {"task", "dataset", "metrics"} <= result.keys() and {"name", "type"} <= result[
                    "dataset"
                ].keys()
                errors += [] if complete else ["a result of model-index is incomplete"]
        self.json({"errors": [{"message": text} for text in errors], "warnings": []}, 400 if errors else 200)

    def described(self, repo: Repo, commit: str) -> dict[str, Any]:
        card, state = repo.card(commit), repo.state
        tags = [card.get("library_name"), *(card.get("tags") or []), card.get("pipeline_tag"), "region:us"]
        tags += [f"license:{card['license']}"] if card.get("license") else []
        return {
            "id": repo.name,
            "modelId": repo.name,
            "author": repo.name.split("/")[0],
            "sha": commit,
            "private": state.private,
            "gated": "auto" if state.gated else False,
            "tags": [tag for tag in tags if tag],
            "cardData": card,
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in repo.tree(commit)],
        }

    def list(self) -> None:
        user = self.user()
        wanted, author = self.query.get("filter", []), self.query.get("author", [None])[0]
        found = []
        for repo in self.hub.store.all():
            owner = repo.name.split("/")[0]
            described = self.described(repo, repo.state.branches["main"])
            shown = not repo.state.private or owner == user
            if shown and author in (None, owner) and set(wanted) <= set(described["tags"]):
                if "full" not in self.query:
                    del described["siblings"]
                found.append(described)
        start, size = int(self.query.get("skip", ["0"])[0]), 2  # so few a page that pages are turned
        headers = {"Content-Type": "application/json"}
        if start + size < len(found):
            query = urllib.parse.urlencode({**self.query, "skip": start + size}, doseq=True)
            headers["Link"] = f'<{self.hub.url}/api/models?{query}>; rel="next"'
        self.reply(json.dumps(found[start : start + size]).encode(), headers)

    def model(self, repo: str, revision: str | None = None) -> None:
        found = self.readable(repo)
        self.json(self.described(found, self.commit(found, revision or "main")))

    def refs(self, repo: str) -> None:
        state = self.readable(repo).state

        def listed(refs: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": prefix + name, "targetCommit": commit} for name, commit in refs.items()]

        branches, tags = listed(state.branches, "refs/heads/"), listed(state.tags, "refs/tags/")
        self.json({"branches": branches, "tags": tags, "converts": [], "pullRequests": listed(state.pulls, "")})

    def make_branch(self, repo: str, name: str) -> None:
        found = self.writable(repo)
        start = self.commit(found, (json.loads(self.body or b"{}") or {}).get("startingPoint") or "main")
        with found.lock:
            branches = found.state.branches
            if name in branches:
                raise Refusal(409, "Reference already exists")
            found.set(branches={**branches, name: start})
        self.json({})

    def make_tag(self, repo: str, revision: str) -> None:
        found = self.writable(repo)
        name, commit = json.loads(self.body)["tag"], self.commit(found, revision)
        with found.lock:
            tags = found.state.tags
            if name in tags:
                raise Refusal(409, "Tag reference exists already")
            found.set(tags={**tags, name: commit})
        self.json({})

    def tree(self, repo: str, revision: str) -> None:
        found = self.readable(repo)
        listed = []
        for path, entry in found.tree(self.commit(found, revision)).items():
            item: dict[str, Any] = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
            if entry.sha256:
                item["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 130}
            listed.append(item)
        self.json(listed)

    def preupload(self, repo: str, revision: str) -> None:
        found = self.readable(repo) if "create_pr" in self.query else self.writable(repo)
        tree = found.tree(self.commit(found, self.branch(found, revision)))
        answers = []
        for file in json.loads(self.body)["files"]:
            entry = tree.get(file["path"])
            large = LFS.fullmatch(file["path"]) is not None or file["size"] > 10 << 20
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            answers.append({**answer, "oid": entry.etag} if entry else answer)
        self.json({"files": answers})

    def batch(self, repo: str) -> None:
        found = self.readable(repo)
        if self.user() is None:
            raise Refusal(401, "Invalid username or password.")
        objects: list[dict[str, Any]] = []
        for wanted in json.loads(self.body)["objects"]:
            answer = dict(wanted)
            if not found.has_lfs(wanted["oid"]):
                verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/objects/verify"}
                answer["actions"] = {"upload": {"href": f"{self.hub.cdn}/{repo}/{wanted['oid']}"}, "verify": verify}
            objects.append(answer)
        self.json({"transfer": "basic", "objects": objects})

    def verify(self, repo: str) -> None:
        found, asked = self.readable(repo), json.loads(self.body)
        if not found.has_lfs(asked["oid"]) or (found.folder / "lfs" / asked["oid"]).stat().st_size != asked["size"]:
            raise Refusal(404, "the file did not arrive")
        self.json({})

    def make_commit(self, repo: str, revision: str) -> None:
        pull = "create_pr" in self.query
        found = self.readable(repo) if pull else self.writable(repo)
        if self.user() is None:
            raise Refusal(401, "Invalid username or password.")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        try:
            commit, number = found.apply(self.branch(found, revision), lines, pull)
        except StaleError:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.") from None
        except MissingError as error:
            raise Refusal(400, str(error)) from None
        url = f"{self.hub.url}/{repo}/commit/{commit}"
        answer = {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""}
        self.json({**answer, "pullRequestUrl": f"{self.hub.url}/{repo}/discussions/{number}"} if pull else answer)

    def resolve(self, repo: str, revision: str, path: str) -> None:
        found = self.readable(repo)
        if found.state.gated and self.user() != repo.split("/")[0]:
            status = 401 if self.user() is None else 403
            raise Refusal(status, f"Access to model {repo} is restricted.", "GatedRepo")
        commit = self.commit(found, revision)
        entry: Entry | None = found.tree(commit).get(path)
        if entry is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if entry.sha256:
            linked = {"X-Linked-ETag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
            place = f"{self.hub.cdn}/{repo}/{entry.sha256}"
            self.reply(b"", {**headers, **linked, "ETag": f'"{entry.oid}"', "Location": place}, 302)
        else:
            data = found.read(entry)
            assert git_oid(data) == entry.oid
            self.ranged(data, {**headers, "ETag": f'"{entry.oid}"'})


API = rf"/api/models/{NAME}"
ROUTES = [
    ("GET", "/api/whoami-v2", Main.whoami),
    ("POST", "/api/repos/create", Main.create),
    ("POST", "/api/validate-yaml", Main.validate),
    ("GET", "/api/models", Main.list),
    ("GET", API, Main.model),
    ("GET", rf"{API}/revision/(?P<revision>.+)", Main.model),
    ("GET", rf"{API}/refs", Main.refs),
    ("POST", rf"{API}/branch/(?P<name>.+)", Main.make_branch),
    ("POST", rf"{API}/tag/(?P<revision>.+)", Main.make_tag),
    ("GET", rf"{API}/tree/(?P<revision>refs/pr/\d+|[^/]+)", Main.tree),
    ("POST", rf"{API}/preupload/(?P<revision>.+)", Main.preupload),
    ("POST", rf"{API}/commit/(?P<revision>.+)", Main.make_commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Main.batch),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/verify", Main.verify),
    ("GET HEAD", rf"/{NAME}/resolve/(?P<revision>refs/pr/\d+|[^/]+)/(?P<path>.+)", Main.resolve),
]
