"""Which of torch's attention kernels the network gets. torch chooses, by device, dtype and width; we name it.

On the newest GPUs that is cuDNN's, which prepares itself anew for each length (tens of milliseconds on the host, by
others' notes) and is the fastest at a megapixel; elsewhere it is flash attention.
"""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend

HEAD_WIDTH = 128
"""Of the large checkpoints."""


def kernel_of(device: torch.device, dtype: torch.dtype, head_width: int = HEAD_WIDTH) -> str:
    """`flash_attention`, `cudnn_attention`, `efficient_attention` or `math`."""
    heads = torch.empty(1, 1, 64, head_width, device=device, dtype=dtype)
    return SDPBackend(torch._fused_sdp_choice(heads, heads, heads)).name.lower()  # noqa: SLF001 - what torch itself asks
