"""Run the service: `python -m review_service`."""

from onecard import server, settings
from review_service.app import create_app
from review_service.memory import be_sparing
from review_service.settings import ReviewSettings


def main() -> None:
    """Serve until SIGTERM."""
    be_sparing()
    config = settings.load(ReviewSettings)
    server.run(create_app(config), service="review", port=config.review_port, settings=config)


if __name__ == "__main__":
    main()
