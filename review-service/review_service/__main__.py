"""Run the service: `python -m review_service`."""

import sys

from onecard import settings
from onecard.web import server
from review_service.app import create_app
from review_service.reviews.malloc import limit_arenas
from review_service.settings import ReviewSettings

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a thread may hold Python's lock while the event loop waits for it. Imports and counts of terms run in
threads, for most of a second in Python; with the default of 5 ms each step of a search would wait that long."""


def main() -> None:
    """Read the settings from the environment and serve until SIGTERM."""
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    limit_arenas()
    config = settings.load(ReviewSettings)
    server.run(create_app(config), service="review", port=config.review_port, settings=config)


if __name__ == "__main__":
    main()
