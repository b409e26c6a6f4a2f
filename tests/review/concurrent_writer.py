"""A review service's store in a process of its own, that writes when it is told to.

`python -m tests.review.concurrent_writer FOLDER NAME`: each line of its input names reviews, `FIRST LAST`; it stores
them and answers with a line.
"""

import asyncio
import sys

from review_service.reviews.store import open_store
from tests.review.test_store import put


async def main(folder: str, name: str) -> None:
    """Store what the lines say."""
    async with open_store(folder) as store:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            first, last = map(int, line.split())
            await put(store, range(first, last), text=f"{name} 주차가 편해요")
            print("stored", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
