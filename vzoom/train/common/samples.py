"""A conversation as training sees it: tokens, masks, positions, and which frames its image tokens are of.

Both ways to a sample, a record on disk and a rollout of our engine, take ids and positions from the session that holds
such conversations: nothing here tokenises and nothing guesses a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...config import ZoomConfig
from ...data import Record, VideoRef, tokenize_record
from ...protocol import Vocabulary
from ...types import StopReason, Trajectory, Visual


@dataclass(frozen=True)
class FrameRef:
    """What the vision tower sees at a time, on a grid of patches before merging: an image, which is the frame of the
    video at `path` on display at the one time of `pts_seconds`; or a temporal patch of frames at these times."""

    path: str
    pts_seconds: tuple[float, ...]
    grid_hw: tuple[int, int]
    is_video: bool = False


@dataclass(frozen=True, eq=False)
class Sample:
    """A conversation of T tokens.

    ids int64 [T]; positions int32 [3, T]; sampled, learned bool [T]. logprobs float32 [T], the engine's; None if our
    engine did not sample it. frames: one per image or temporal patch, in the order of the visual tokens. config: what
    the conversation was held under, which says how large its frames are made.
    """

    id: str
    video: VideoRef
    config: ZoomConfig
    ids: np.ndarray
    positions: np.ndarray
    sampled: np.ndarray
    learned: np.ndarray
    frames: tuple[FrameRef, ...]
    logprobs: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)


def from_record(record: Record, vocabulary: Vocabulary) -> Sample:
    """The record's conversation.

    Raises:
        InvalidRecord: the engine would not have held it.
    """
    tokens = tokenize_record(record, vocabulary)
    return _sample(tokens.trajectory, tokens.learned, record.config, vocabulary, id=record.id, video=record.video)


def from_trajectory(
    trajectory: Trajectory, config: ZoomConfig, vocabulary: Vocabulary, *, id: str, video: VideoRef
) -> Sample:
    """A rollout with the engine's log-probabilities; all that was sampled counts as learned.

    Args:
        trajectory: the rollout.
        config: what it was held under.
        vocabulary: of its checkpoint.
        id: names it in errors.
        video: what it is about.

    Raises:
        ValueError: it is not finished, or its clips were not run but reused.
    """
    if trajectory.stop_reason in (None, StopReason.CANCELLED):
        raise ValueError(f"conversation {id} is not finished: stop_reason {trajectory.stop_reason}")
    if not trajectory.is_exact:
        raise ValueError(f"conversation {id} reused clips of another session, which is approximate: not for training")
    return _sample(trajectory, trajectory.sampled, config, vocabulary, id=id, video=video, has_logprobs=True)


def _sample(
    trajectory: Trajectory,
    learned: Sequence[bool],
    config: ZoomConfig,
    vocabulary: Vocabulary,
    *,
    id: str,
    video: VideoRef,
    has_logprobs: bool = False,
) -> Sample:
    ids = np.array(trajectory.ids, np.int64)
    merge = vocabulary.merge
    is_visual = np.isin(ids, list(vocabulary.visual_token_ids))
    at_visuals = np.zeros(len(ids), bool)
    for visual in trajectory.visuals:
        patches, height, width = visual.grid_thw
        if visual.num_tokens != patches * (height // merge) * (width // merge):
            raise ValueError(
                f"conversation {id}: {'a video' if visual.is_video else 'an image'} of {patches} x {height} x {width} "
                f"patches has {visual.num_tokens} tokens"
            )
        at_visuals[visual.offset : visual.offset + visual.num_tokens] = True
    num_tokens = sum(visual.num_tokens for visual in trajectory.visuals)
    if num_tokens != is_visual.sum() or not np.array_equal(at_visuals, is_visual):
        raise ValueError(
            f"conversation {id}: {int(is_visual.sum())} visual tokens, but its {trajectory.num_frames} frames have "
            f"{num_tokens} features, or are elsewhere"
        )
    return Sample(
        id=id,
        video=video,
        config=config,
        ids=ids,
        positions=np.array(trajectory.positions, np.int32),
        sampled=np.array(trajectory.sampled, bool),
        learned=np.array(learned, bool),
        frames=tuple(ref for visual in trajectory.visuals for ref in _frame_refs(visual, video.path)),
        logprobs=np.array(trajectory.logprobs, np.float32) if has_logprobs else None,
    )


def _frame_refs(visual: Visual, path: str) -> Iterator[FrameRef]:
    """One per temporal patch. Only the last of a video may hold fewer frames than the others."""
    patches, height, width = visual.grid_thw
    together = -(-len(visual.pts_seconds) // patches)
    for begin in range(0, len(visual.pts_seconds), together):
        times = visual.pts_seconds[begin : begin + together]
        yield FrameRef(path, times, (height, width), visual.is_video)


def sampled_index(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Where the sampled tokens of each sample are.

    Returns:
        The index of the n-th sampled token, int64 [B, N] padded with 0, and which of these are no padding, bool [B, N].
    """
    index = [np.flatnonzero(sample.sampled) for sample in samples]
    width = max(map(len, index))
    index_BN = np.zeros((len(index), width), np.int64)
    mask_BN = np.zeros((len(index), width), bool)
    for row, own in enumerate(index):
        index_BN[row, : len(own)] = own
        mask_BN[row, : len(own)] = True
    return index_BN, mask_BN
