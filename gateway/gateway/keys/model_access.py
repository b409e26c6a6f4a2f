"""Which models a key may use."""

from gateway.keys.key_ring import Key
from gateway.request_body import JsonBody
from gateway.upstream import model_catalog
from gateway.upstream.model_catalog import ModelCatalog
from gateway.upstream.response import unavailable
from gateway.upstream.services import Upstream
from onecard.errors import ModelNotAllowed

MODEL_CARDS_TTL_SECONDS = 10.0
"""How long a service's models are taken to be the same."""


class ModelAccess:
    """Knows the names of the models of each service, for keys that may not use all of them."""

    def __init__(self, models: ModelCatalog) -> None:
        self._catalog = models

    async def require(self, key: Key | None, upstream: Upstream, body: JsonBody) -> None:
        """Let the key use the model that the body names, else the service's first, by any of its names.

        Raises:
            ModelNotAllowed: that model is none of the key's, or the service is not asked by model.
            Unavailable: the service is away, so that nobody knows what its models are called.
        """
        if key is None or key.models is None:
            return
        if not upstream.has_models:
            raise ModelNotAllowed("This API key is for models only. Use one without a list of models.")
        cards = await self._catalog.cards(upstream, MODEL_CARDS_TTL_SECONDS)
        if not cards:
            raise unavailable(upstream)
        model = body.fields.get("model")  # Of a body that is wrong the service says what is.
        asked = model if isinstance(model, str) else None
        card = (
            cards[0]
            if asked is None
            else next((card for card in cards if asked in model_catalog.model_names(card)), None)
        )
        if card is None or model_catalog.model_names(card).isdisjoint(key.models):
            raise ModelNotAllowed(
                "This API key is not for this model. Use one that it is for, or ask the operator.", param="model"
            )
