import torch

from gistrec.codecs.bf16 import BF16
from gistrec.state import UserState
from gistrec.testing.codecs import CodecTests


class TestBF16(CodecTests):
    codec = BF16()
    max_error = 2**-9

    def test_numbers_stay_finite(self) -> None:
        state = UserState({"k.0": torch.full((1, 1, 2), torch.finfo(torch.float32).max)}, 1)
        assert self.codec.decode(self.codec.encode(state)).tensors["k.0"].isfinite().all()
