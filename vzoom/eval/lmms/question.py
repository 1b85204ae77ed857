"""What an lmms-eval task asks, as a question that vzoom can be asked: one video, one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..item import Item
from ..runs.ask import seed_of

# lmms-eval's separator of few-shot examples, which it puts into every task's stops. Our answers end with a
# tag, and paragraphs are part of a long answer; lmms-eval's own adapters leave this stop out as well.
_BETWEEN_EXAMPLES = "\n\n"


@dataclass(frozen=True)
class Generation:
    """How a task wants its answer.

    A task's max_new_tokens is not here: it is meant for the answer alone, and would cut a thought. A turn's limit is
    the model argument max_new_tokens.

    Args:
        temperature: 0 is greedy.
        stops: the answer is cut before the first of them.
    """

    temperature: float = 0.0
    stops: tuple[str, ...] = ()

    @classmethod
    def of(cls, kwargs: Mapping[str, Any], *, source: str) -> Generation:
        """Read a task's generation_kwargs. ValueError for what would change the answer and cannot be done."""
        if (kwargs.get("num_beams") or 1) > 1:
            raise ValueError(f"{source}: vzoom does no beam search: add --gen_kwargs num_beams=1")
        temperature = float(kwargs.get("temperature") or 0)
        if kwargs.get("do_sample") is False:
            temperature = 0.0
        if temperature > 0 and ((kwargs.get("top_p") or 1) < 1 or (kwargs.get("top_k") or 0) > 0):
            raise ValueError(
                f"{source}: here vzoom samples by temperature alone: add --gen_kwargs top_p=1,top_k=0, or temperature=0"
            )
        until = kwargs.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        return cls(temperature, tuple(stop for stop in stops if stop and stop != _BETWEEN_EXAMPLES))

    def cut(self, answer: str) -> str:
        for stop in self.stops:
            answer = answer.partition(stop)[0]
        return answer.strip()


@dataclass(frozen=True)
class LmmsQuestion:
    """One request. `item.source` names it: "videomme, document 7"."""

    item: Item
    path: Path
    seed: int
    generation: Generation


def read_question(
    messages: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any],
    *,
    task: str,
    document: int | str,
    repeat: int,
    seed: int,
) -> LmmsQuestion:
    """The question that a chat model's messages ask.

    Args:
        messages: as lmms-eval makes them.
        kwargs: the task's generation_kwargs.
        task: its name.
        document: which one of the task.
        repeat: how often this document was asked before, if it is asked several times.
        seed: of the run.

    Raises:
        ValueError: there is anything but texts of the system and the user, with one whole video that is a file here.
    """
    source = f"{task}, document {document}"
    texts: list[str] = []
    media: list[Mapping[str, Any]] = []
    for message in messages:
        if message["role"] not in ("system", "user"):
            raise ValueError(f"{source}: vzoom is asked one question, and cannot be given turns of {message['role']!r}")
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                media.append(part)
    path = _video(media, source)
    item = Item(
        id=f"{task}/{document}/{repeat}",
        benchmark=task,
        video=str(path),
        question="\n".join(texts).strip(),
        options=(),
        reference=None,
        category=task,
        duration_bucket="",
        subtitles=None,
        source=source,
    )
    return LmmsQuestion(item, path, seed_of(item, seed), Generation.of(kwargs, source=source))


def _video(media: Sequence[Mapping[str, Any]], source: str) -> Path:
    kinds = [part["type"] for part in media]
    if kinds != ["video"]:
        seen = ", ".join(kinds) or "nothing to see"
        raise ValueError(f"{source}: vzoom answers questions about one video, and this one has {seen}")
    (video,) = media
    if not isinstance(video["url"], str) or any(video.get(name) is not None for name in ("start_time", "end_time")):
        raise ValueError(f"{source}: vzoom reads whole video files, got {video['url']!r}")
    path = Path(video["url"])
    if not path.is_file():
        raise ValueError(f"{source}: no file {path}; fetch the task's videos to where it looks for them")
    return path
