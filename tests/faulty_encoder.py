"""The embedding service with a fault built in: `python -m tests.faulty_encoder`.

For faults that cannot be produced from outside. The file that FAULT_FILE names says which: empty for none,
`out-of-memory N` for every batch of more than N tokens, `nan N` for one that gives no numbers for the token N, `nan`
for one that gives none at all, `hang` for a device that never answers, `hold` for one that answers when the file says
something else. Both make a file beside it, `.held`, when they have something to compute.
"""

import os
import time
from pathlib import Path
from typing import Any

import torch

from embedding_service.app import create_app
from embedding_service.engine import SentenceEncoder
from embedding_service.settings import EmbeddingSettings
from embedding_service.vectors import VectorKind
from onecard import settings
from onecard.gpu.device import Device
from onecard.inference.served_engine import EncoderModel
from onecard.models.folders import ModelFolder
from onecard.web import server


class FaultyEncoder(SentenceEncoder):
    """Raises and hangs where the device would: inside the model."""

    def __init__(self, folder: ModelFolder, device: Device) -> None:
        super().__init__(folder, device)
        self._fault = Path(os.environ["FAULT_FILE"])
        self.encoder.register_forward_pre_hook(self._before, with_kwargs=True)
        self.encoder.register_forward_hook(self._after, with_kwargs=True)

    def _before(self, _: torch.nn.Module, __: Any, kwargs: dict[str, torch.Tensor]) -> None:
        while self._fault.read_text() == "hold":
            self._fault.with_suffix(".held").touch()
            time.sleep(0.005)
        fault, _, tokens = self._fault.read_text().partition(" ")
        if fault == "hang":
            self._fault.with_suffix(".held").touch()
            time.sleep(1000)
        if fault == "out-of-memory" and kwargs["input_ids"].numel() > int(tokens):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def _after(self, _: torch.nn.Module, __: Any, kwargs: dict[str, torch.Tensor], output: Any) -> None:
        fault, _, token = self._fault.read_text().partition(" ")
        if fault == "nan":
            ids = kwargs["input_ids"]
            output.last_hidden_state[ids == int(token) if token else torch.ones_like(ids, dtype=torch.bool)] = torch.nan


FAULTY = EncoderModel("embedding", FaultyEncoder, VectorKind)


if __name__ == "__main__":
    config = settings.load(EmbeddingSettings)
    server.run(create_app(config, FAULTY), service="embedding", port=config.embedding_port, settings=config)
