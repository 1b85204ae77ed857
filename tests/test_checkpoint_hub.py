"""Hub ids: an unreachable hub is one line within seconds, and what the cache holds is used without one."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import pytest
from checkpoints import make_checkpoint
from huggingface_hub import constants

import vzoom
from vzoom.cli import main
from vzoom.models import find_checkpoint, load_checkpoint, load_patch_spec, load_vocabulary

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("hub") / "m")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which is online."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


def cached(model: Path, cache: Path, hub_id: str, *, revision: str = "main", without: str = "") -> Path:
    """Put a checkpoint into the cache, as the hub's client does it."""
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / revision).write_text(COMMIT)
    for file in model.iterdir():
        if file.name != without:
            shutil.copyfile(file, snapshot / file.name)
    return snapshot


def hub_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does before huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        hub_at(endpoint, monkeypatch)
        yield endpoint


def test_a_hub_that_does_not_answer_is_one_line_within_seconds(
    cache: Path, silent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = time.monotonic()
    with pytest.raises(OSError, match="does not answer") as caught:
        load_checkpoint("owner/name")
    assert time.monotonic() - begin < 5
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("owner/name: name a folder with a checkpoint, or connect to the hub: ")
    assert silent in text
    assert main(["verify", "--model", "owner/name"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"vzoom verify: --model {text}"


def test_a_hub_that_is_not_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    hub_at(f"http://127.0.0.1:{port}", monkeypatch)
    for read in (load_checkpoint, load_patch_spec, load_vocabulary, vzoom.load):
        with pytest.raises(OSError, match=f"127.0.0.1:{port} does not answer .*Connection refused"):
            read("owner/name")


def test_a_whole_cache_needs_no_hub(cache: Path, silent: str, model: Path) -> None:
    cached(model, cache, "owner/name")
    loaded = load_checkpoint("owner/name")
    assert loaded.name == "owner/name"
    assert loaded.folder.path.name == COMMIT
    assert loaded.model.hf.name_or_path == "owner/name"


def test_a_cache_without_the_weights_says_so(cache: Path, silent: str, model: Path) -> None:
    cached(model, cache, "owner/name", without="model.safetensors")
    begin = time.monotonic()
    with pytest.raises(OSError, match="does not hold it, or not all of it"):
        load_checkpoint("owner/name")
    assert time.monotonic() - begin < 5  # it was asked once


def test_offline_nothing_is_asked(cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the hub"))
    with pytest.raises(OSError, match="unset HF_HUB_OFFLINE: HF_HUB_OFFLINE is set, and the hub's cache"):
        load_checkpoint("owner/name")
    cached(model, cache, "owner/name", revision="v2")
    with pytest.raises(OSError, match="owner/name: name a folder"):
        load_checkpoint("owner/name")
    for revision in ("v2", COMMIT):
        assert vzoom.load("owner/name", revision=revision, device="cpu").name == "owner/name"


def test_what_is_no_folder_and_no_hub_id(tmp_path: Path, model: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "a/b/c", "./m", "..", "a b", ""):
        with pytest.raises(OSError, match=r"no such folder|no hub id|no config.json"):
            find_checkpoint(name).read_config()
    with pytest.raises(ValueError, match="is a folder and has no revision 'v2'"):
        load_checkpoint(str(model), revision="v2")
    with pytest.raises(OSError, match=r"has no config\.json"):
        load_checkpoint(str(tmp_path))


def test_files_that_are_no_json_are_named(tmp_path: Path) -> None:
    for text, told in (("{", "is not JSON"), ("[]", "holds no JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=f"config.json {told}"):
            load_checkpoint(str(tmp_path))


# ---------------------------------------------------------------- a hub that answers


class Hub(BaseHTTPRequestHandler):
    """Serves one checkpoint as the hub does: what it is, and its files."""

    folder: Path
    asked: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {path}")
        if path.startswith("/api/models/owner/name/tree/"):
            listed = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                for file in self.folder.iterdir()
            ]
            return self._answer(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
        if path.startswith("/api/models/owner/name"):
            if path.rpartition("/")[2] not in ("name", "main", "v2", COMMIT):
                return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            files = [{"rfilename": file.name} for file in self.folder.iterdir()]
            told = {"id": "owner/name", "sha": COMMIT, "siblings": files, "private": False, "downloads": 0, "tags": []}
            return self._answer(200, json.dumps(told).encode(), {})
        if path.startswith("/api/models/owner/gated"):
            return self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if path.startswith("/api/"):
            return self._answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        file = self.folder / path.rpartition("/")[2]
        if not file.is_file():
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        body = file.read_bytes()
        return self._answer(200, body, {"ETag": f'"{file.name}"', "X-Repo-Commit": COMMIT})

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(model: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Mine(Hub):
        folder = tmp_path / "served"
        asked: ClassVar[list[str]] = []

    shutil.copytree(model, Mine.folder)
    (Mine.folder / "README.md").write_text("not for us")
    (Mine.folder / "pytorch_model.bin").write_bytes(b"nor is this")
    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield Mine
        server.shutdown()


def test_only_what_is_needed_is_fetched_and_weights_last(hub: type[Hub], cache: Path) -> None:
    assert load_patch_spec("owner/name").patch_size == 14
    assert not any("safetensors" in one for one in hub.asked)
    loaded = load_checkpoint("owner/name", revision="v2")
    held = {file.name for file in loaded.folder.path.iterdir()}
    assert {"config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"} <= held
    assert not held & {"README.md", "pytorch_model.bin"}
    assert loaded.folder.path.is_relative_to(cache)


def test_a_model_that_does_not_fit_is_not_fetched(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vzoom.models.checkpoint.free_memory.free_memory", lambda _: 1000)
    with pytest.raises(ValueError, match="owner/name does not fit"):
        load_checkpoint("owner/name")
    assert not any("safetensors" in one for one in hub.asked)


@pytest.mark.parametrize(
    ("hub_id", "revision", "told"),
    [
        ("owner/name", "v3", "owner/name: it has no revision 'v3'; name a branch, tag or commit"),
        ("owner/gated", None, "owner/gated: accept its terms on http://"),
        ("owner/other", None, "owner/other: name a folder, mend the name, or `hf auth login`"),
    ],
)
def test_what_the_hub_refuses(hub: type[Hub], hub_id: str, revision: str | None, told: str) -> None:
    with pytest.raises(OSError, match=told) as caught:
        load_checkpoint(hub_id, revision=revision)
    assert "\n" not in str(caught.value)


def test_a_hub_with_pickled_weights_only(hub: type[Hub]) -> None:
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"owner/name holds no weights.*pickled ones, .bin or .pt, are never read"):
        load_checkpoint("owner/name")
    assert not any(".bin" in one for one in hub.asked)
