from __future__ import annotations

import pytest


@pytest.fixture
def seeded_torch() -> None:
    import torch

    torch.manual_seed(0)
