"""Which weights gave an answer: a hash of what is loaded, so that no folder's name or hub's tag need be trusted."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...models import VisionLanguageModel


def model_hash(model: VisionLanguageModel) -> str:
    """SHA-256 over the names and bytes of all weights as they are loaded, 16 hex digits."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.hf.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]
