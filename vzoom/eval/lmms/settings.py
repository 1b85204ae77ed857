"""What `--model_args` may say, and the model that it describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ...config import LIMITS, Sampling, ZoomConfig
from ..runs.policy import Policy, PolicyName
from ..runs.shard import local_device

if TYPE_CHECKING:
    from ...zoomer import Zoomer

_TEXTS = ("pretrained", "device", "dtype", "policy", "glance")
_NUMBERS = ("fps", "confidence", *(name for name, one in LIMITS.items() if one.kind is float))  # others: whole numbers


@dataclass(frozen=True)
class Settings:
    """The options of `vzoom eval`, by the names that they have there.

    Questions are asked in blocks of twice `max_sessions`, as `vzoom eval` does.

    Args:
        pretrained: a folder, a hub id or "embedded".
        max_sessions: conversations at once; None is lmms-eval's batch_size.
        limits: what is set of `ZoomConfig`; the others are the checkpoint's own.
    """

    pretrained: str
    device: str = "auto"
    dtype: str = "auto"
    policy: PolicyName = "zoom"
    budget: int | None = None
    fps: float | None = None
    confidence: float = Policy.confidence
    max_sessions: int | None = None
    batch_size: int = 1
    seed: int = Sampling.seed
    limits: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "limits"}
        for name, value in {**own, **self.limits}.items():
            _check_type(name, value)
        if self.sessions < 1:
            raise ValueError(f"max_sessions must be 1 or more, got {self.sessions}")
        self.look.configs(self.limit(ZoomConfig()))  # checked before the model is loaded, which can take minutes

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Settings:
        """Read --model_args, batch_size and device as lmms-eval passes them. ValueError names what is wrong."""
        known = [*(one.name for one in fields(cls) if one.name != "limits"), *LIMITS]
        unknown = sorted(set(args) - set(known))
        if unknown:
            raise ValueError(f"--model_args: unknown {', '.join(unknown)}; there are {', '.join(known)}")
        if "pretrained" not in args:
            raise ValueError('name a model: --model_args pretrained=M, a folder, a hub id or "embedded"')
        size = args.get("batch_size", 1)  # comes as text, "auto" among them
        if not str(size).isdecimal():
            raise ValueError(f"--batch_size must be a whole number, the conversations held at once, got {size}")
        limits = {name: args[name] for name in LIMITS if name in args}
        own = {name: value for name, value in args.items() if name not in limits}
        return cls(**{**own, "batch_size": int(size)}, limits=limits)

    @property
    def sessions(self) -> int:
        """Conversations at once."""
        return self.batch_size if self.max_sessions is None else self.max_sessions

    @property
    def look(self) -> Policy:
        """How a conversation may look at its video."""
        return Policy(self.policy, budget=self.budget, fps=self.fps, confidence=self.confidence)

    def limit(self, own: ZoomConfig) -> ZoomConfig:
        """A checkpoint's own limits, changed by those that are set here."""
        return own.override(**self.limits)

    def load(self) -> Zoomer:
        """The model; on this process's own GPU if a launcher started several processes."""
        from ...zoomer import load

        return load(
            self.pretrained,
            device=local_device(self.device),
            dtype=self.dtype,
            limits=self.limits,
            max_sessions=self.sessions,
        )


def _check_type(name: str, value: Any) -> None:
    """lmms-eval reads "8" as a whole number, "0.5" as a number, "true" as a truth, and all else as text."""
    if name in _TEXTS:
        kind, fits = "a text", isinstance(value, str)
    elif name in _NUMBERS:
        kind, fits = "a number", isinstance(value, int | float) and not isinstance(value, bool)
    else:
        kind, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    if not fits and value is not None:
        raise ValueError(f"{name} must be {kind}, got {value!r}")
