"""Run the service: `python -m embedding_service`."""

from embedding_service.app import create_app
from embedding_service.settings import EmbeddingSettings
from onecard import settings
from onecard.web import server


def main() -> None:
    """Read the settings from the environment and serve until SIGTERM."""
    config = settings.load(EmbeddingSettings)
    server.run(create_app(config), service="embedding", port=config.embedding_port, settings=config)


if __name__ == "__main__":
    main()
