"""Loads the engine that the settings want, or says why torch serves instead."""

from collections.abc import Callable, Iterator
from typing import Any

from onecard import logs
from onecard.inference.engines import manifest as manifests
from onecard.inference.engines.card import Card
from onecard.inference.engines.graph_engine import GraphEngine, ResultKind
from onecard.inference.engines.runners import open_runner
from onecard.inference.engines.selection import BuiltEngine, Selection

log = logs.logger()


def loaded_engines(
    selection: Selection, result_kind: Callable[[int], ResultKind[Any]], card: Card | None
) -> Iterator[tuple[BuiltEngine, GraphEngine[Any]]]:
    """Load the engines of a selection, one after the other; the caller takes the first that works.

    Each that cannot be loaded is logged once, with its reason.

    Args:
        selection: the candidates, and what was refused before.
        result_kind: by the number of components of a result.
        card: what an engine may use of a card; None on a CPU.

    Yields:
        An engine and what it was loaded from.
    """
    for refusal in selection.refusals:
        log.warning("engine refused", engine=refusal.engine, reason=refusal.reason)
    for built in selection.candidates:
        try:
            engine = _load(built, result_kind, card)
        except Exception as error:  # whatever a library raises at a graph of its own
            lines = str(error).strip().splitlines()
            refused(built, f"it does not load: {type(error).__name__}: {lines[-1] if lines else ''}")
            continue
        if isinstance(engine, str):
            refused(built, engine)
        else:
            yield built, engine


def refused(built: BuiltEngine, reason: str) -> None:
    """Log that an engine was not taken.

    Args:
        built: the engine.
        reason: as the end of a sentence.
    """
    log.warning("engine refused", engine=built.folder.name, reason=reason)


def _load(
    built: BuiltEngine, result_kind: Callable[[int], ResultKind[Any]], card: Card | None
) -> GraphEngine[Any] | str:
    manifest = built.manifest
    if fault := manifests.damage(manifest, built.folder):
        return fault
    return GraphEngine(
        open_runner(manifest.engine, built.folder, manifest.arithmetic, manifest.window, card),
        result_kind(manifest.result_size),
        window=manifest.window,
        vocab_size=manifest.vocab_size,
        pad_id=manifest.pad_id,
        quantised=manifest.precision == "int8",
    )
