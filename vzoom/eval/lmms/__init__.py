"""vzoom as a model of lmms-eval, so that its tasks run unchanged (extra `lmms`; see docs/lmms.md).

lmms-eval finds `manifest` through the entry point group `lmms_eval.models`. Only `plugin` imports lmms_eval, and only
lmms-eval imports `plugin`.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval's registry asks for: the model's name there, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vzoom", chat_class_path="vzoom.eval.lmms.plugin.VZoom")
