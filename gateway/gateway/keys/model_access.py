"""Which models a key may use."""

from gateway.keys.key_ring import Key
from gateway.request_body import JsonBody
from gateway.upstream import model_catalog
from gateway.upstream.model_catalog import ModelCatalog
from gateway.upstream.response import unavailable
from gateway.upstream.services import Upstream
from onecard.errors import ModelNotAllowed

MODEL_CARDS_TTL_SECONDS = 10.0
"""How long a service's model cards are reused."""


class ModelAccess:
    """Checks keys that have a list of models."""

    def __init__(self, catalog: ModelCatalog) -> None:
        """Use a catalog.

        Args:
            catalog: knows the names of each service's models.
        """
        self._catalog = catalog

    async def require(self, key: Key | None, upstream: Upstream, body: JsonBody) -> None:
        """Check that a key may use the model of a request: the one that the body names, else the service's first.

        Args:
            key: of the request; None: all models.
            upstream: the service.
            body: of the request.

        Raises:
            ModelNotAllowed: the key may not use the model, or the service has no models.
            Unavailable: the service does not answer, so the names of its models are unknown.
        """  # noqa: DOC501 (what the function returns is raised)
        if key is None or key.models is None:
            return
        if not upstream.has_models:
            raise ModelNotAllowed("This API key is for models only. Use one without a list of models.")
        cards = await self._catalog.cards(upstream, MODEL_CARDS_TTL_SECONDS)
        if not cards:
            raise unavailable(upstream)
        model = body.fields.get("model")  # An invalid body is refused by the service.
        requested = model if isinstance(model, str) else None
        card = (
            cards[0]
            if requested is None
            else next((card for card in cards if requested in model_catalog.model_names(card)), None)
        )
        if card is None or model_catalog.model_names(card).isdisjoint(key.models):
            raise ModelNotAllowed(
                "This API key is not for this model. Use one that it is for, or ask the operator.", param="model"
            )
