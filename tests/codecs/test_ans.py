from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs import ByteCodec
from gistrec.codecs.ans import ANS, LARGEST, TOTAL
from gistrec.errors import CodecError, CorruptStateError
from gistrec.testing.codecs import ByteCodecTests


def skewed(length: int, seed: int) -> bytes:
    """Small numbers in the first half, large ones in the second, few of each."""
    rng = np.random.default_rng(seed)
    low = np.minimum(rng.geometric(0.3, length // 2), 255)
    return (low.astype(np.uint8)).tobytes() + (256 - low).astype(np.uint8).tobytes()


class TestANS(ByteCodecTests):
    codec = ANS()

    @classmethod
    @cache
    def fitted(cls) -> ByteCodec:
        """Fitted on zeros too: it shrinks only what it has seen."""
        rng = np.random.default_rng(1)
        samples = [rng.bytes(20) + bytes(range(100)) + bytes(200) for _ in range(200)]
        return cls.codec.fit_bytes(samples)

    @settings(deadline=None)
    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        compressed = self.fitted().compress(data)
        assert len(compressed) <= len(data) + 1
        assert self.fitted().expand(compressed) == data

    @settings(deadline=None)
    @given(st.binary(max_size=300))
    def test_any_garbage(self, data: bytes) -> None:
        try:
            expanded = self.fitted().expand(data)
        except CorruptStateError:
            return
        assert self.fitted().expand(self.fitted().compress(expanded)) == expanded

    def test_size_is_the_entropy(self) -> None:
        codec = ANS(classes=2).fit_bytes([skewed(2048, seed) for seed in range(50)])
        data = skewed(2048, 99)
        p = 0.7 ** np.arange(60) * 0.3
        entropy_bytes = -(p * np.log2(p)).sum() * len(data) / 8
        size = len(codec.compress(data))
        assert entropy_bytes * 0.95 < size < entropy_bytes * 1.05 + 10

    def test_classes_tell_regions_apart(self) -> None:
        samples = [skewed(2048, seed) for seed in range(50)]
        one, two = (ANS(classes=n).fit_bytes(samples) for n in (1, 2))
        data = skewed(2048, 99)
        # which half a byte is of is one bit of it
        assert len(one.compress(data)) - len(two.compress(data)) > 0.8 * len(data) / 8

    def test_the_period_tells_high_bytes_from_low_ones(self) -> None:
        def halves(seed: int) -> bytes:
            rng = np.random.default_rng(seed)
            return rng.integers(100 << 8, 101 << 8, 500).astype("<u2").tobytes()

        codec = ANS(classes=1).fit_bytes([halves(seed) for seed in range(200)])
        assert len(codec.tables["frequencies"]) >= 1 + 2
        assert len(codec.compress(halves(999))) < 0.6 * 1000

    def test_every_table_has_the_same_sum_and_no_zero(self) -> None:
        table = self.fitted().tables["frequencies"].long()
        assert (table.sum(1) == TOTAL).all()
        assert (table > 0).all()

    def test_fitting_twice_gives_the_same(self) -> None:
        samples = [skewed(500, seed) for seed in range(20)]
        first, again = (ANS().fit_bytes(samples).tables["frequencies"] for _ in range(2))
        assert first.equal(again)

    def test_a_length_that_is_too_large_is_refused(self) -> None:
        data = bytes(LARGEST + 1)
        assert self.fitted().compress(data) == b"\0" + data
        forged = b"\x81\x80\x80\x02"
        with pytest.raises(CorruptStateError, match="did not make"):
            self.fitted().expand(forged)

    def test_too_few_samples_are_an_error(self) -> None:
        with pytest.raises(CodecError, match="1 samples of 4 bytes"):
            self.codec.fit_bytes([b"data"])

    def test_use_before_fit_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="not fitted"):
            self.codec.compress(b"data")

    @pytest.mark.parametrize("classes", [0, 65])
    def test_options(self, classes: int) -> None:
        with pytest.raises(CodecError, match="classes must be 1 to 64"):
            ANS(classes=classes)
