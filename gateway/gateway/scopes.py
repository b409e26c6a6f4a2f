"""Which models a key may use."""

from gateway import catalog
from gateway.catalog import Catalog
from gateway.keys.ring import Key
from gateway.reply import unavailable
from gateway.upstreams import Upstream
from onecard.errors import ModelNotAllowed
from onecard.web import request_parsing

KEPT_SECONDS = 10.0
"""How long a service's models are taken to be the same."""


class Scopes:
    """Knows the names of the models of each service, for keys that may not use all of them."""

    def __init__(self, models: Catalog) -> None:
        self._models = models

    async def require(self, key: Key | None, upstream: Upstream, body: bytes) -> None:
        """Let the key use the model that the body names, else the service's first, by any of its names.

        Raises:
            ModelNotAllowed: that model is none of the key's, or the service is not asked by model.
            Unavailable: the service is away, so that nobody knows what its models are called.
        """
        if key is None or key.models is None:
            return
        if not upstream.has_models:
            raise ModelNotAllowed("This API key is for models only. Use one without a list of models.")
        cards = await self._models.cards(upstream, KEPT_SECONDS)
        if not cards:
            raise unavailable(upstream)
        model = request_parsing.json_fields(body).get("model")  # Of a body that is wrong the service says what is.
        asked = model if isinstance(model, str) else None
        card = cards[0] if asked is None else next((card for card in cards if asked in catalog.names(card)), None)
        if card is None or catalog.names(card).isdisjoint(key.models):
            raise ModelNotAllowed(
                "This API key is not for this model. Use one that it is for, or ask the operator.", param="model"
            )
