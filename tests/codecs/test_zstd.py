from pathlib import Path

import pytest
import zstandard

from gistrec.codecs.zstd import LARGEST, Zstd
from gistrec.errors import CodecError, CorruptStateError
from gistrec.testing.codecs import ByteCodecTests


class TestZstd(ByteCodecTests):
    codec = Zstd()

    def test_a_frame_that_claims_too_much_is_refused(self) -> None:
        writer = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(
                format=zstandard.FORMAT_ZSTD1_MAGICLESS
            )
        ).compressobj(size=LARGEST + 1)
        with pytest.raises(CorruptStateError, match="claims to hold"):
            self.codec.expand(b"\1" + writer.compress(bytes(1 << 20)) + writer.flush(1))

    @pytest.mark.parametrize("options", [{"level": 0}, {"level": 23}, {"dict_bytes": 9}])
    def test_options(self, options: dict[str, int]) -> None:
        with pytest.raises(CodecError, match="level must be 1 to 22"):
            Zstd(**options)


class TestZstdWithDictionary(ByteCodecTests):
    codec = Zstd(dict_bytes=1024)

    @classmethod
    def folder(cls) -> Path:
        return super().folder().with_name("zstd-dictionary")

    def test_dictionary_helps_small_payloads(self) -> None:
        data = b"noise" + bytes(range(100))
        assert len(self.fitted().compress(data)) < 30 < len(Zstd().compress(data))

    def test_use_before_fit_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="not fitted"):
            self.codec.compress(b"data")

    def test_too_few_samples_are_an_error(self) -> None:
        with pytest.raises(CodecError, match="1 samples of 4 bytes"):
            self.codec.fit_bytes([b"data"])
