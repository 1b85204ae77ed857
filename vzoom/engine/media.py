"""How clips come in: frames from the decoding workers, visual tokens from the tower, for all sessions together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from ..config import ZoomConfig
from ..models import Checkpoint, FeatureCache, encode_clips
from ..types import Clip, Event, TurnEnded, ZoomCall
from ..video import PatchBuffer, VideoReadError
from .running import Active, Encoded, Encoding
from .session import Feed, Fetch
from .workers import Workers


class Intake:
    """Decodes and encodes for an engine. With `overlap` nobody waits for a clip that others can do without."""

    def __init__(self, checkpoint: Checkpoint, cache: FeatureCache, *, overlap: bool, max_step_tokens: int) -> None:
        self.cache = cache
        self.overlap = overlap
        self._checkpoint = checkpoint
        self._max_step_tokens = max_step_tokens
        self._buffer = PatchBuffer()
        self._workers = Workers(checkpoint.model.device, overlap=overlap)

    def fetch(self, active: Active, fetch: Fetch, events: list[Event]) -> Exception | None:
        """Hand the session its clip once that is there. An error that is not the model's to mend comes back."""
        self._decode(active, fetch.timestamps)
        assert active.decoding is not None
        if self.overlap and not active.decoding.future.done():
            return None
        session, started = active.session, time.perf_counter()
        decoding, active.decoding = active.decoding, None
        clip: Clip | None = None
        try:
            clip, milliseconds = decoding.future.result()
            session.splice(clip)
        except (ValueError, OSError) as error:
            if fetch.call is None or not isinstance(error, VideoReadError):
                return error
            session.unreadable(str(error))
            clip, milliseconds = None, (time.perf_counter() - started) * 1e3
        active.stage_ms["decode"] = milliseconds
        if fetch.call is not None:
            accepted = isinstance(session.turn.outcome, ZoomCall)
            events.append(TurnEnded(active.number, session.turn, clip if accepted else None))
        return None

    def foresee(self, active: Active) -> None:
        """Begin to decode what the call that is being written seems to want."""
        if active.session.foreseen and not isinstance(active.session.action, Fetch):
            self._decode(active, active.session.foreseen)

    def encode(self, sessions: Sequence[Active]) -> None:
        """Start the vision tower on clips whose turn it is: those of a step in one run of it."""
        new: list[tuple[Active, list[Clip]]] = []
        room = self._max_step_tokens
        for active in sessions:
            feed = active.session.action
            if not isinstance(feed, Feed) or active.encoding is not None:
                continue
            clips = active.unseen(feed)
            if clips and (not new or active.run_length(feed) <= room):
                new.append((active, clips))
                room -= active.run_length(feed)
        if not new:
            return
        inputs = [(clip, active.session.config) for active, clips in new for clip in clips]
        shared = self._workers.encode(lambda: self._encoded(inputs))
        first = 0
        for active, clips in new:
            active.encoding = Encoding(shared, range(first, first + len(clips)))
            first += len(clips)

    def wait(self, sessions: Sequence[Active]) -> None:
        """Until some worker is done; at once where none works."""
        pending: list[Future[Any]] = [
            a.decoding.future for a in sessions if a.decoding and isinstance(a.session.action, Fetch)
        ]
        pending += [a.encoding.future for a in sessions if a.encoding]
        if pending:
            wait(pending, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        self._workers.close()

    def _decode(self, active: Active, timestamps: tuple[float, ...]) -> None:
        if active.decoding is None or active.decoding.timestamps != timestamps:
            active.drop_decoding()
            active.decoding = self._workers.decode(active.video, timestamps)

    def _encoded(self, inputs: list[tuple[Clip, ZoomConfig]]) -> Encoded:
        return encode_clips(
            inputs, self._checkpoint.model, spec=self._checkpoint.patch_spec, cache=self.cache, buffer=self._buffer
        )
