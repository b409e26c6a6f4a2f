"""The gateway's guard: it checks API_KEY, the keys of API_KEYS_FILE, or both."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from gateway.keys.key_file import KeyFile
from gateway.keys.key_ring import DEFAULT_KEY_NAME, InvalidKeyFile, Key, KeyRing, hash_of
from gateway.settings import GatewaySettings
from onecard.web.auth import UNAUTHENTICATED_PATHS, bearer_key


class KeysGuard:
    """Finds the key of a request. If no key is configured, anyone may call."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Read the keys.

        Args:
            settings: key, or key file, or both.

        Raises:
            SystemExit: the file cannot be used.
        """
        self._ring = _key_source(settings)

    @property
    def open(self) -> bool:
        """Whether anyone may call."""
        return self._ring is None

    def check(self, path: str, authorization: Sequence[bytes]) -> Key | None:
        """Find the key of a request.

        Args:
            path: of the request; some paths need no key.
            authorization: values of all `Authorization` headers.

        Returns:
            The key; None if none is needed.

        Raises:
            MissingKey: there is none.
            InvalidKey: it is unknown, revoked or expired.
        """
        if self._ring is None or path in UNAUTHENTICATED_PATHS:
            return None
        return self._ring().find(bearer_key(authorization), datetime.now(UTC))


def _key_source(settings: GatewaySettings) -> Callable[[], KeyRing] | None:
    """Returns the current keys when called; None if no key is configured."""
    key = settings.api_key
    # API_KEY has no limits of its own; the defaults apply.
    own = [Key(name=DEFAULT_KEY_NAME, sha256=hash_of(key.get_secret_value().encode()))] if key else []
    if settings.api_keys_file is not None:
        try:
            return KeyFile(settings.api_keys_file, own).key_ring
        except InvalidKeyFile as error:
            raise SystemExit(
                f"settings: API_KEYS_FILE cannot be used: {error}. Set it right, or make keys with 'onecard keys new'."
            ) from None
    if own:
        ring = KeyRing(own)
        return lambda: ring
    return None
