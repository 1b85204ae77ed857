"""The torch.library namespace `vzoom::` that every op registers itself in.

Library.define/impl rather than custom_op: about 5 us a call instead of 40, measured with 8 tensors.
"""

from __future__ import annotations

import torch

LIB = torch.library.Library("vzoom", "DEF")
