"""Run the gateway: `python -m gateway`."""

from gateway.app import create_app
from gateway.settings import GatewaySettings
from onecard import settings
from onecard.web import server


def main() -> None:
    """Serve until SIGTERM. Fails if the gateway would be public without a key."""
    config = settings.load(GatewaySettings)
    server.require_key_in_public(config, other_keys=config.api_keys_file is not None)
    server.run(create_app(config), service="gateway", port=config.gateway_port, settings=config)


if __name__ == "__main__":
    main()
