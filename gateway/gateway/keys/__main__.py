"""Creates, lists and revokes keys: `python -m gateway.keys`, or `onecard keys`."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from gateway.keys.key_file import editing_keys, read_keys
from gateway.keys.key_ring import InvalidKeyFile, Key, hash_of, new_key, parse_keys, render_keys
from gateway.settings import KeyFileSettings
from onecard.settings import load


def main(arguments: Sequence[str] | None = None, program: str = "python -m gateway.keys") -> None:
    """Run one command.

    Args:
        arguments: of the command line; None: those of the process.
        program: what messages call it.

    Raises:
        SystemExit: the command failed; the message is one line.
    """
    options = _parser(program).parse_args(arguments)
    path: Path | None = options.file or load(KeyFileSettings).api_keys_file
    if path is None:
        raise SystemExit(f"{program}: set API_KEYS_FILE to the file that holds the keys, or name it with --file.")
    try:
        options.run(path, options)
    except InvalidKeyFile as error:
        raise SystemExit(f"{program}: {path}: {error}.") from None
    except OSError as error:
        raise SystemExit(f"{program}: {path}: {error.strerror}.") from None


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Keys of the gateway.")
    parser.add_argument("--file", type=Path, help="file that holds the keys (default: API_KEYS_FILE)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a key and show it, once")
    new.add_argument("--name", required=True, help="what logs and metrics call it")
    new.add_argument("--models", type=_names, help="models that it may use, separated by commas (default: all)")
    new.add_argument("--rpm", type=int, metavar="N", help="requests a minute (default: REQUESTS_PER_MINUTE)")
    new.add_argument("--tpm", type=int, metavar="N", help="tokens a minute (default: TOKENS_PER_MINUTE)")
    new.add_argument("--expires", type=_moment, metavar="TIME", help="last moment, in ISO 8601; UTC unless it says")
    new.set_defaults(run=_new)
    commands.add_parser("list", help="show the keys, as far as they are kept").set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="let a key count no longer")
    revoke.add_argument("name")
    revoke.set_defaults(run=_revoke)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _new(path: Path, options: argparse.Namespace) -> None:
    if options.expires is not None and options.expires <= datetime.now(UTC):
        raise InvalidKeyFile(f"--expires {options.expires:%Y-%m-%d %H:%M %Z} is past: name a moment that is to come")
    secret = new_key()
    fields = {"models": options.models, "requests_per_minute": options.rpm, "tokens_per_minute": options.tpm}
    with editing_keys(path) as keys:
        if any(key.name == options.name for key in keys):
            raise InvalidKeyFile(f"there is a key '{options.name}' already, or was: a name is used once")
        try:
            key = Key(name=options.name, sha256=hash_of(secret.encode()), expires=options.expires, **fields)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            raise InvalidKeyFile(f"{first['loc'][0]}: {first['msg']}") from None
        keys.append(key)
        parse_keys(render_keys(keys))
    print(secret)
    print("This key is shown once, and only its hash is kept.", file=sys.stderr)


def _list(path: Path, _: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    row = "{:<24} {:<8} {:>8} {:>10}  {:<20} {}".format
    print(row("name", "state", "req/min", "tokens/min", "expires", "models"))
    for key in read_keys(path):
        limits = [value or "-" for value in (key.requests_per_minute, key.tokens_per_minute)]
        expires = f"{key.expires:%Y-%m-%d %H:%M %Z}" if key.expires else "-"
        print(row(key.name, key.state(now), *limits, expires, ", ".join(key.models or ["all"])))


def _revoke(path: Path, options: argparse.Namespace) -> None:
    with editing_keys(path) as keys:
        index = next((index for index, key in enumerate(keys) if key.name == options.name), None)
        if index is None:
            raise InvalidKeyFile(f"there is no key '{options.name}'")
        keys[index] = keys[index].model_copy(update={"revoked": True})
    print(f"'{options.name}' is revoked; running gateways know within a second.")


if __name__ == "__main__":
    main()
