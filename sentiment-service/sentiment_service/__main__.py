"""Run the service: `python -m sentiment_service`."""

from onecard import settings
from onecard.web import server
from sentiment_service.app import create_app
from sentiment_service.settings import SentimentSettings


def main() -> None:
    """Read the settings from the environment and serve until SIGTERM."""
    config = settings.load(SentimentSettings)
    server.run(create_app(config), service="sentiment", port=config.sentiment_port, settings=config)


if __name__ == "__main__":
    main()
