"""Where a checkpoint's files are: a folder, or a hub id whose files are fetched into the hub's cache.

Only data is read. Nothing that a checkpoint brings is run: `auto_map` is ignored, and pickled weights are not opened.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .stored import FileTensor, open_weights, weight_files

# What there is beside the weights: configurations, tokenizers, chat templates, protocols.
_SMALL_FILES = ["*.json", "*.txt", "*.jinja", "*.model", "*.toml"]
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ANSWER_SECONDS = 3.0  # what the hub has to answer at all


@dataclass(frozen=True)
class CheckpointFolder:
    """The files of a checkpoint on this machine. Of a hub id they are all but the weights, until these are asked for.

    Attributes:
        name: the folder or hub id as the user named it.
        path: the folder.
        is_cached: whether it is in the hub's cache.
        no_hub: why the hub cannot be asked; empty if it can.
    """

    name: str
    path: Path
    is_cached: bool = False
    no_hub: str = ""

    def read_json(self, file: str) -> dict[str, Any] | None:
        """A JSON file, or None if there is none of this name.

        Raises:
            ValueError: it is not JSON, or no object.
        """
        path = self.path / file
        if not path.is_file():
            return None
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON ({error}): download it again") from error
        if not isinstance(read, dict):
            raise ValueError(f"{path} holds no JSON object: download it again")
        return read

    def read_config(self) -> dict[str, Any]:
        """Its config.json. OSError if there is none."""
        config = self.read_json("config.json")
        if config is None:
            raise FileNotFoundError(f"{self.name}: name a folder with a checkpoint: it has no config.json")
        return config

    def file(self, name: str) -> Path | None:
        """A large file that is not of a model's weights; fetched before if it is a hub id. None if there is none.

        Raises:
            OSError: it is not in the cache and cannot be fetched.
        """
        path = self.path / name
        if not path.is_file() and self.is_cached:
            _fetch(self.name, self.path.name, [name], self.no_hub)
        return path if path.is_file() else None

    def weights(self) -> dict[str, FileTensor]:
        """The tensors of its files, by key; fetched before if it is a hub id.

        Raises:
            ValueError: see `open_weights`.
            OSError: they are not in the cache and cannot be fetched.
        """
        if self.is_cached:
            missing = [file for file in weight_files(self.path) if not (self.path / file).is_file()]
            if missing:  # the commit is the folder's name: all files are of one revision
                fetched = _fetch(self.name, self.path.name, missing, self.no_hub)
                if self.no_hub and not all((fetched / file).is_file() for file in missing):
                    raise FileNotFoundError(_not_in_cache(self.name, self.no_hub))
        return open_weights(self.path, self.name)


def find_checkpoint(name_or_path: str, *, revision: str | None = None) -> CheckpointFolder:
    """The folder of a checkpoint. Of a hub id the small files are fetched, unless HF_HUB_OFFLINE is set.

    Args:
        name_or_path: a folder in Hugging Face layout, or a hub id.
        revision: a branch, a tag or a commit of a hub id.

    Raises:
        OSError: there is no such folder, or the hub does not answer, has no such checkpoint or revision, or does not
            give it to you. The message is one line and says what to do.
        ValueError: a revision of a folder.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{name_or_path} is a folder and has no revision {revision!r}: revisions are of hub ids")
        return CheckpointFolder(name_or_path, folder)
    if not _HUB_ID.fullmatch(name_or_path) or name_or_path.startswith("."):
        raise FileNotFoundError(f"{name_or_path}: no such folder, and no hub id (owner/name)")
    no_hub = _why_no_hub()
    path = _fetch(name_or_path, revision, _SMALL_FILES, no_hub)
    return CheckpointFolder(name_or_path, path, is_cached=True, no_hub=no_hub)


def _fetch(hub_id: str, revision: str | None, patterns: list[str], no_hub: str) -> Path:
    """The snapshot in the hub's cache, with the files of these patterns. no_hub: why nothing can be fetched."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    called = hub_id if revision is None else f"{hub_id} at {revision}"
    try:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=bool(no_hub))
        )
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(_not_in_cache(called, no_hub or f"{constants.ENDPOINT} stopped answering")) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{hub_id}: it has no revision {revision!r}; name a branch, tag or commit") from error
    except GatedRepoError as error:
        raise PermissionError(
            f"{called}: accept its terms on {constants.ENDPOINT}/{hub_id}, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{called}: name a folder, mend the name, or `hf auth login` if it is private: {constants.ENDPOINT} has no "
            "such checkpoint that you may read"
        ) from error


def _not_in_cache(called: str, no_hub: str) -> str:
    from huggingface_hub import constants

    connect = "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "connect to the hub"
    return (
        f"{called}: name a folder with a checkpoint, or {connect}: {no_hub}, and the hub's cache here (HF_HOME) does "
        "not hold it, or not all of it"
    )


def _why_no_hub() -> str:
    """Ask the hub for anything. Empty if it answers in time, else what happened. The hub's own client tries again for
    minutes."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    endpoint = constants.ENDPOINT
    found: list[str] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_ANSWER_SECONDS):
                found.append("")
        except urllib.error.HTTPError:
            found.append("")  # an answer
        except (OSError, ValueError) as error:
            found.append(f"{endpoint} does not answer ({getattr(error, 'reason', error)})")

    asking = threading.Thread(target=ask, daemon=True)  # a thread: no timeout covers looking up a name
    asking.start()
    asking.join(_ANSWER_SECONDS)
    return found[0] if found else f"{endpoint} does not answer within {_ANSWER_SECONDS:.0f} s"
