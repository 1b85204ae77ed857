"""Are a model's modules those of its family, as transformers makes them?

vzoom takes weights out of modules and runs its own loop. What wraps a module (PEFT, accelerate) or stands in for it
(bitsandbytes, FP8 layers) computes something else than that weight, and would be passed over without a word.
"""

from __future__ import annotations

from torch import nn

_HOMES = ("torch.nn.modules.", "transformers.models.", "transformers.activations")


def check_modules(model: nn.Module) -> None:
    """Hold a model to what vzoom runs of it.

    Raises:
        ValueError: a module is wrapped or replaced. The message names it and says what to do.
    """
    strange = [
        f"{name or 'the model'} ({_kind(module)})"
        for name, module in model.named_modules()
        if not type(module).__module__.startswith(_HOMES) or "forward" in vars(module)
    ]
    if strange:
        raise ValueError(
            f"{len(strange)} modules are wrapped or replaced, and vzoom runs none but transformers' own: "
            f"{', '.join(strange[:3])}{', …' if len(strange) > 3 else ''}. {_REMEDY}"
        )


def check_no_adapters(model: nn.Module) -> None:
    """Hold a model to having no adapters of PEFT.

    Raises:
        ValueError: it has some. The message says what to do.
    """
    wrapped = [name or type(model).__name__ for name, m in model.named_modules() if _package(m) == "peft"]
    if wrapped:
        raise ValueError(f"this model is wrapped by PEFT ({wrapped[0]} and {len(wrapped) - 1} more). {_REMEDY}")


_REMEDY = "Merge adapters first (model = model.merge_and_unload()), or load them with vzoom.load(model, adapter=...)"


def _package(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]


def _kind(module: nn.Module) -> str:
    replaced = "its forward is replaced" if "forward" in vars(module) else ""
    return replaced or f"{type(module).__module__}.{type(module).__qualname__}"
