"""Our rollouts in TRL's GRPOTrainer: everything that touches its private parts is in this file.

TRL computes the loss (clip-higher, KL, entropy bonus, the mean over tokens), transformers' Trainer steps the optimizer,
saves and resumes. Ours are the micro-batches and their log-probabilities: `_prepare_inputs` hands out those of
`GRPOSteps`, `_get_per_token_logps_and_entropies` runs them with exact positions and visual features. Both speak of
sampled tokens only, side by side ([B, N], no prompt), so that no mask can let another token in.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ...config import missing_extra
from ..common.callbacks import note
from ..common.policy import token_logprobs
from .grpo_step import GRPOSteps, MicroBatch

SUPPORTED = "trl>=1.16,<1.17"

# Methods of GRPOTrainer that are replaced or called, with the arguments that they must know.
_REPLACED = {
    "_prepare_inputs": ("generation_batch",),
    "_compute_loss": ("model", "inputs"),
    "_get_per_token_logps_and_entropies": ("model", "input_ids", "attention_mask", "logits_to_keep", "compute_entropy"),
    "training_step": ("model", "inputs"),
    "log": ("logs",),
}


def check_trainer(trainer_class: Any) -> None:
    """Check that this TRL's trainer is one that we know how to feed.

    Raises:
        ImportError: it is not; names the version to install.
    """
    import trl

    for name, wanted in _REPLACED.items():
        method = getattr(trainer_class, name, None)
        known = () if method is None else tuple(inspect.signature(inspect.unwrap(method)).parameters)
        if missing := [argument for argument in wanted if argument not in known]:
            what = "is gone" if method is None else f"takes no {', '.join(missing)}"
            raise ImportError(
                f"trl {trl.__version__}: GRPOTrainer.{name} {what}, and vzoom feeds its rollouts through it; "
                f"install {SUPPORTED}"
            )


def trainer_class() -> type[Any]:
    """A GRPOTrainer that takes its micro-batches from `GRPOSteps`.

    Raises:
        ImportError: TRL is not installed, or it is one that we do not know how to feed.
    """
    try:
        from trl import GRPOTrainer
    except ImportError as error:
        raise missing_extra("trl", "train") from error
    check_trainer(GRPOTrainer)
    return type("ZoomGRPOTrainer", (_TRLAdapter, GRPOTrainer), {})


def no_reward(**_: Any) -> list[float]:
    """TRL wants a reward function; ours rewards whole trajectories before TRL sees them (`grpo_step.py`)."""
    raise AssertionError("TRL asked for rewards: it made its own rollouts in place of vzoom's")


class _TRLAdapter:
    """The methods to put in front of GRPOTrainer's. Set `steps` before training."""

    steps: GRPOSteps
    _inputs_of_step: list[dict[str, Any]] | None = None
    _micro_batch: MicroBatch | None = None

    # TRL's own state
    _step: int
    args: Any
    model_wrapped: Any
    temperature: float

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The next micro-batch of this process; every steps_per_generation of them, a new step is rolled out."""
        at = self._step % self.args.steps_per_generation
        if at == 0 or self._inputs_of_step is None:
            step = self.steps.next(self.model_wrapped)
            count = torch.tensor(float(step.num_tokens), device=self.args.device)
            self._inputs_of_step = [loss_inputs(micro_batch, count) for micro_batch in step.micro_batches]
            for name, value in step.metrics.items():
                note(self, name, value)
        return self._inputs_of_step[at]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._micro_batch = inputs["micro_batch"]
        loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        self._micro_batch = None
        return loss

    def _get_per_token_logps_and_entropies(self, model: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        """Log-probabilities and entropies [B, N] of the micro-batch's sampled tokens, and no MoE loss."""
        micro_batch = self._micro_batch
        if micro_batch is None:
            raise AssertionError("TRL asked for log-probabilities outside of the loss: it made its own rollouts")
        inputs = micro_batch.batch.to(micro_batch.index_BN.device)
        both = token_logprobs(model, inputs, temperature=self.temperature)
        logp_BN, entropy_BN = (values.flatten()[micro_batch.index_BN] for values in both)
        return logp_BN, entropy_BN, None

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: what a checkpoint is, its folder's vzoom.json says."""

    def _send_telemetry(self) -> None:
        """None: nobody is told what is trained here."""


def loss_inputs(micro_batch: MicroBatch, num_tokens: Tensor) -> dict[str, Any]:
    """What GRPOTrainer._compute_loss reads, and the micro-batch.

    Args:
        micro_batch: one of a step.
        num_tokens: of the whole step, over which the loss is a mean.
    """
    made = {
        "prompt_ids": micro_batch.ids_BN[:, :0],
        "prompt_mask": micro_batch.mask_BN[:, :0].long(),
        "completion_ids": micro_batch.ids_BN,
        "completion_mask": micro_batch.mask_BN.long(),
        "advantages": micro_batch.advantages_BN,
        "old_per_token_logps": micro_batch.old_BN,
        "num_items_in_batch": num_tokens,
        "micro_batch": micro_batch,
    }
    return made if micro_batch.ref_BN is None else {**made, "ref_per_token_logps": micro_batch.ref_BN}


def prepared(trainer: Any, reference: Any) -> Any:
    """A frozen model, sharded or placed as the trainer's own is."""
    from trl.models import prepare_deepspeed, prepare_fsdp

    if trainer.is_deepspeed_enabled:
        return prepare_deepspeed(reference, trainer.accelerator)
    if trainer.is_fsdp_enabled:
        return prepare_fsdp(reference, trainer.accelerator)
    return trainer.accelerator.prepare_model(reference, evaluation_mode=True)
