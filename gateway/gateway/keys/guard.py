"""The gateway's guard: API_KEY, the keys of API_KEYS_FILE, or both."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from gateway.keys.key_file import KeyFile
from gateway.keys.key_ring import DEFAULT_KEY_NAME, InvalidKeyFile, Key, KeyRing, hash_of
from gateway.settings import GatewaySettings
from onecard.web.auth import UNAUTHENTICATED_PATHS, bearer_key


class KeysGuard:
    """Finds the key of a request. Without any key configured, everybody may come in."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Read the file.

        Raises:
            SystemExit: it cannot be used.
        """
        self._ring = _key_source(settings)

    @property
    def open(self) -> bool:
        """See `onecard.web.auth.TableAccess`."""
        return self._ring is None

    def check(self, path: str, authorization: Sequence[bytes]) -> Key | None:
        """The caller's key; None where nobody is asked.

        Raises:
            MissingKey, InvalidKey: the request may not come in.
        """
        if self._ring is None or path in UNAUTHENTICATED_PATHS:
            return None
        return self._ring().find(bearer_key(authorization), datetime.now(UTC))


def _key_source(settings: GatewaySettings) -> Callable[[], KeyRing] | None:
    """Where the keys that count come from; None if none are asked for."""
    key = settings.api_key
    # Among others, without limits of its own.
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
