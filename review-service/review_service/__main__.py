"""Run the service: `python -m review_service`."""

from onecard import settings
from onecard.web import server
from review_service.app import create_app
from review_service.reviews.malloc import limit_arenas
from review_service.settings import ReviewSettings


def main() -> None:
    """Read the settings from the environment and serve until SIGTERM."""
    limit_arenas()
    config = settings.load(ReviewSettings)
    server.run(create_app(config), service="review", port=config.review_port, settings=config)


if __name__ == "__main__":
    main()
