"""Walk a request through a running service: which rooms it is in, how much is called, how often it comes back.

`python tools/walk.py` starts the services as their users do, each with a hook of `sys.setprofile` in all its threads,
before an LLM that is canned. After one request to warm up the measured one is sent several times, each time with
another text, so that no cache knows it. What a service does besides (it looks whether its neighbours are ready) can
only add to a walk, so the figures are those of the shortest, and `agree` says how many of the walks were just like it.

- A **room** is a module of ours of which a function ran. The request goes **through** those of which a coroutine did:
  there it may wait, and it only looks in at the others. **Folders** are the packages that the rooms lie in.
- A **call** is a call of a function of ours. Comprehensions and what `dataclass` writes are none, and a coroutine that
  goes on is none.
- An **entry** is where control comes into a module from outside: a function of it is called, or a coroutine of it goes
  on, by a frame of another module, of a library or of the event loop. All entries but the first of each room are
  **re-entries**. Returns are not counted, since each would be the other half of an entry that is.
- A **token** is one of the middle of a streamed answer, which is sent alone. Its **frames** are those of ours that run
  from the moment at which its bytes come out of the service's socket until they are written to the client's; all else
  is of its whole turn, to where the gateway waits for the next one. A coroutine that goes on is one frame.

«Ours» is what the installed distributions of this repository bring, so nothing here changes when modules move.
"""

import argparse
import collections
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from walk_stack import EMBEDDING, GATEWAY, REVIEW, TOKENS, CannedLlm, Client, Service, running

ROOT = Path(__file__).resolve().parent.parent
CHAT = "/v1/chat/completions"
COLUMNS = ("rooms", "through", "folders", "calls", "re_entries", "frames")

Figures = dict[str, Any]


def figures(events: list[Any]) -> Figures:
    """What one walk comes to."""
    calls = [event for event in events if not isinstance(event, str)]
    rooms = list(dict.fromkeys(module for module, *_ in calls))
    through = {module for module, _, _, waits, _ in calls if waits}
    return {
        "rooms": len(rooms),
        "through": len(through),
        "folders": len({room.rpartition(".")[0] or room for room in rooms}),
        "calls": sum(begins for _, begins, *_ in calls),
        "re_entries": sum(entered for _, _, entered, *_ in calls) - len(rooms),
        "entered": [f"{room} *" if room in through else room for room in rooms],
    }


def figures_of_token(events: list[Any]) -> Figures:
    """The same of one token, and the frames between the sockets."""
    frames: collections.Counter[int] = collections.Counter()
    for _, begins, _, _, frame in events[: events.index("written")]:
        # A frame that has ended may have left its address to another.
        frames[frame] = frames[frame] + 1 if begins else max(frames[frame], 1)
    return {**figures(events), "frames": frames.total()}


def turns(events: list[Any]) -> Iterator[list[Any]]:
    """What happened between one mark and the next."""
    begin = 0
    for at, event in enumerate(events):
        if event == "mark":
            yield events[begin:at]
            begin = at + 1


def shortest(walks: list[Figures]) -> Figures:
    """The figures of the shortest walk, and how many are just like it."""
    least = min(walks, key=lambda one: (one["calls"] + one["re_entries"], json.dumps(one)))
    return {**least, "agree": walks.count(least), "of": len(walks)}


def walk(service: Service, send: Callable[[int], None], times: int) -> Figures:
    """Send a request to warm up, then so many more."""
    send(0)
    return shortest([figures(recorded(service, send, number)) for number in range(1, times + 1)])


def walk_tokens(service: Service, send: Callable[[int], None]) -> Figures:
    """Of a streamed answer: the first token comes with the head, and the last with the end."""
    send(0)
    tokens = [turn for turn in turns(recorded(service, send, 1)) if "written" in turn]
    return shortest([figures_of_token(turn) for turn in tokens[1:-1]])


def recorded(service: Service, send: Callable[[int], None], number: int) -> list[Any]:
    """What runs while a request is under way."""
    service.order("begin")
    send(number)
    events: list[Any] = service.order("end")
    return events


def chat(number: int, **more: object) -> dict[str, object]:
    """A chat about a text of its own."""
    text = f"리뷰를 요약해 줘.\n- 국물이 진해요. ({number})"
    return {"model": "canned", "messages": [{"role": "user", "content": text}], **more}


def review(number: int) -> dict[str, object]:
    """A review of its own."""
    return {"review_id": f"walk-{number}", "restaurant_id": "r1", "text": f"국물이 진하고 직원이 친절해요 {number}"}


def asking(service: Service, path: str, fields: Callable[[int], object]) -> Callable[[int], None]:
    """What posts one request after the other."""
    client = Client(service)

    def send(number: int) -> None:
        client.post(path, fields(number)).read()

    return send


def streaming(gateway: Service, llm: CannedLlm) -> Callable[[int], None]:
    """What asks for a streamed chat, and has each token come when the one before has arrived and all is quiet."""
    client = Client(gateway)

    def send(number: int) -> None:
        llm.token()
        answer = client.post(CHAT, chat(number, stream=True))
        for _ in range(TOKENS):
            answer.readline(), answer.readline()
            gateway.order("mark")
            llm.token()
        answer.read()

    return send


def measure(models: str, times: int) -> dict[str, Figures]:
    """All walks."""
    llm = CannedLlm()
    with running(llm, models) as services:
        requests: dict[str, tuple[str, str, Callable[[int], object]]] = {
            "a chat": (GATEWAY, CHAT, chat),
            "a text to embed": (EMBEDDING, "/v1/embeddings", lambda number: {"input": f"직원이 친절해요 {number}"}),
            "a review to store": (REVIEW, "/v1/reviews", review),
            "a review to find": (REVIEW, "/v1/reviews/search", lambda number: {"query": f"친절한 직원 {number}"}),
        }
        found = {
            name: walk(services[service], asking(services[service], path, fields), times)
            for name, (service, path, fields) in requests.items()
        }
        token = walk_tokens(services[GATEWAY], streaming(services[GATEWAY], llm))
        return {**found, "a streamed token of a chat": token}


def main() -> None:
    """Parse the arguments, and print."""
    parser = argparse.ArgumentParser(description="Walk a request through a running service.")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--rooms", action="store_true", help="list the modules as they are entered; * is gone through")
    parser.add_argument("--times", type=int, default=9, help="walks after the one to warm up (9)")
    parser.add_argument("--models", default=str(ROOT / ".onecard" / "models"), help="folder of the models")
    options = parser.parse_args()
    found = measure(options.models, options.times)
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    print(f"{'':28}" + "".join(f"{column.replace('_', '-'):>12}" for column in (*COLUMNS, "agree")))
    for name, one in found.items():
        cells = [one.get(column, "") for column in COLUMNS] + [f"{one['agree']}/{one['of']}"]
        print(f"{name:28}" + "".join(f"{cell:>12}" for cell in cells))
        if options.rooms:
            print("".join(f"    {room}\n" for room in one["entered"]), end="")


if __name__ == "__main__":
    main()
