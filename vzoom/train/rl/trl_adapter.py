"""Where our rollouts meet TRL's GRPOTrainer: everything that touches its private parts is in this file.

TRL computes the loss (clip-higher, KL, entropy bonus, the mean over tokens), transformers' Trainer steps the optimizer,
saves and resumes. Ours are the rows of a micro-batch and their log-probabilities: `_prepare_inputs` hands out
micro-batches of `Steps`, `_get_per_token_logps_and_entropies` runs them with exact positions and visual features. Both
speak of sampled tokens only, side by side ([B, N], no prompt), so that no mask can let another token in.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ..common.policy import token_logprobs
from .rows import Rows
from .steps import Steps

SUPPORTED = "trl>=1.16,<1.17"

# Methods of GRPOTrainer that are replaced or called, with the arguments that they must know.
_SEAM = {
    "_prepare_inputs": ("generation_batch",),
    "_compute_loss": ("model", "inputs"),
    "_get_per_token_logps_and_entropies": ("model", "input_ids", "attention_mask", "logits_to_keep", "compute_entropy"),
    "training_step": ("model", "inputs"),
    "log": ("logs",),
}


def check_seam(trainer_class: Any) -> None:
    """ImportError where this TRL's trainer is not the one that we know how to feed."""
    import trl

    for name, wanted in _SEAM.items():
        method = getattr(trainer_class, name, None)
        known = () if method is None else tuple(inspect.signature(inspect.unwrap(method)).parameters)
        if missing := [argument for argument in wanted if argument not in known]:
            what = "is gone" if method is None else f"takes no {', '.join(missing)}"
            raise ImportError(
                f"trl {trl.__version__}: GRPOTrainer.{name} {what}, and vzoom feeds its rollouts through it; "
                f"install {SUPPORTED}"
            )


def trainer_class() -> type[Any]:
    """A GRPOTrainer that takes its rows from `Steps`. ImportError without TRL, or with one that has no such seam."""
    try:
        from trl import GRPOTrainer
    except ImportError as error:
        raise ImportError("GRPO needs trl: pip install 'vzoom[train]'") from error
    check_seam(GRPOTrainer)
    return type("ZoomGRPOTrainer", (_Seam, GRPOTrainer), {})


def no_reward(**_: Any) -> list[float]:
    """TRL wants a reward function; ours rewards whole trajectories before TRL sees them (`steps.py`)."""
    raise AssertionError("TRL asked for rewards: it made its own rollouts in place of vzoom's")


class _Seam:
    """The methods to put in front of GRPOTrainer's. Set `steps` before training."""

    steps: Steps
    _micro_batches: list[dict[str, Any]] | None = None
    _rows: Rows | None = None

    # TRL's own state
    _step: int
    _metrics: dict[str, dict[str, list[float]]]
    args: Any
    model_wrapped: Any
    temperature: float

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The next micro-batch of this process; every steps_per_generation of them, a new step is rolled out."""
        at = self._step % self.args.steps_per_generation
        if at == 0 or self._micro_batches is None:
            step = self.steps.next(self.model_wrapped)
            count = torch.tensor(float(step.num_tokens), device=self.args.device)
            self._micro_batches = [_inputs(rows, count) for rows in step.micro_batches]
            for name, value in step.metrics.items():
                self.note(name, value)
        return self._micro_batches[at]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._rows = inputs["rows"]
        loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        self._rows = None
        return loss

    def _get_per_token_logps_and_entropies(self, model: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        """Log-probabilities and entropies [B, N] of the rows' sampled tokens, and no MoE loss."""
        rows = self._rows
        if rows is None:
            raise AssertionError("TRL asked for log-probabilities outside of the loss: it made its own rollouts")
        both = token_logprobs(model, self.steps.layout.batch(rows.samples, rows.seen), temperature=self.temperature)
        logp_BN, entropy_BN = (values.flatten()[rows.index_BN] for values in both)
        return logp_BN, entropy_BN, None

    def note(self, name: str, value: float) -> None:
        """A figure for the next line of the log."""
        self._metrics["train"].setdefault(name, []).append(value)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: what a checkpoint is, its folder's vzoom.json says."""

    def _send_telemetry(self) -> None:
        """None: nobody is told what is trained here."""


def _inputs(rows: Rows, num_tokens: Tensor) -> dict[str, Any]:
    """What GRPOTrainer._compute_loss reads, and the rows."""
    made = {
        "prompt_ids": rows.ids_BN[:, :0],
        "prompt_mask": rows.mask_BN[:, :0].long(),
        "completion_ids": rows.ids_BN,
        "completion_mask": rows.mask_BN.long(),
        "advantages": rows.advantages_BN,
        "old_per_token_logps": rows.old_BN,
        "num_items_in_batch": num_tokens,
        "rows": rows,
    }
    return made if rows.ref_BN is None else {**made, "ref_per_token_logps": rows.ref_BN}


def prepared(trainer: Any, reference: Any) -> Any:
    """A frozen model, sharded or placed as the trainer's own is."""
    from trl.models import prepare_deepspeed, prepare_fsdp

    if trainer.is_deepspeed_enabled:
        return prepare_deepspeed(reference, trainer.accelerator)
    if trainer.is_fsdp_enabled:
        return prepare_fsdp(reference, trainer.accelerator)
    return trainer.accelerator.prepare_model(reference, evaluation_mode=True)
