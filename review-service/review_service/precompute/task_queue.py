"""The queue of tasks, in the same Redis as the cache: Celery, set up so that no task is lost and none hurts twice.

A message is taken off the queue when its task is done (late acknowledgement). If the worker is killed before that,
Redis still has it, and after `VISIBILITY_TIMEOUT_SECONDS` another worker gets it. Tasks are written to be done twice.
"""

import logging
import ssl
from urllib.parse import quote, urlencode

from celery import Celery, signals

from onecard.redis.address import RedisAddress
from onecard.redis.settings import RedisSettings

PLAN_TASK = "onecard.plan"
REFRESH_TASK = "onecard.refresh"
QUEUE_NAME = "precompute"
KEY_PREFIX = "onecard:queue:"
"""Of all of Celery's keys. None of them has a time to live, so that a Redis that evicts only keys that have one keeps
them."""
VISIBILITY_TIMEOUT_SECONDS = 300
"""Longer than any task takes: a message that is not done by then counts as lost."""
_TIMEOUT_SECONDS = 5.0
"""For one answer of Redis, and for connecting. Waiting for messages takes a second each time."""
_SENTINEL_TIMEOUT_SECONDS = 1.0
"""For one answer of a Sentinel, and for connecting: then the next one is asked."""


def open_queue(settings: RedisSettings) -> Celery:
    """The queue; connects when it is used. Tasks are added by who works on them."""
    address = settings.queue_address()
    queue = Celery("onecard", broker=_broker_url(address), set_as_current=False, fixups=[])
    queue.conf.update(
        accept_content=["json"],
        # Sentinels are asked for each task: over a connection that is kept, one would go to a primary that is none any
        # more, which takes it for some ten seconds and then forgets it.
        broker_pool_limit=0 if address.sentinels else 10,
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_use_ssl=_tls_options(address) if address.tls and address.sentinels else None,
        broker_transport_options={
            "global_keyprefix": KEY_PREFIX,
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            "socket_timeout": _TIMEOUT_SECONDS,
            "socket_connect_timeout": _TIMEOUT_SECONDS,
            # Whoever puts a task on the queue is told at once that Redis is away; the worker goes on by itself.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
            **_sentinel_options(address),
        },
        task_acks_late=True,
        task_default_queue=QUEUE_NAME,
        task_ignore_result=True,
        task_reject_on_worker_lost=True,
        task_serializer="json",
        # One at a time: what waits for its turn waits in Redis, where a killed worker does not take it along.
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return queue


def keep_log_configuration() -> None:
    """Celery leaves this process's logging as it is: it sets up its own unless somebody else says that he does.

    Of its own lines, two for each task and one for each round would be most of the log where nobody asks for anything,
    and its pool's tell what users have searched for.
    """
    signals.setup_logging.connect(_no_op, weak=False)
    for chatty in ("celery.worker.strategy", "celery.app.trace", "celery.beat", "celery.pool"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _no_op(**_: object) -> None:
    """Logging is set up."""


def _broker_url(address: RedisAddress) -> str:
    """The cache's Redis, as Celery's connections read it: also its certificate is checked as the cache checks it."""
    login = ""
    if address.username or address.password:
        login = f"{quote(address.username or '', safe='')}:{quote(address.password or '', safe='')}@"
    if address.unix_path is not None:
        return f"redis+socket://{login}{quote(address.unix_path)}?virtual_host={address.database}"
    if address.sentinels:
        return ";".join(f"sentinel://{login}{_host_port(*node)}/{address.database}" for node in address.sentinels)
    server = f"{login}{_host_port(address.host, address.port)}/{address.database}"
    if not address.tls:
        return f"redis://{server}"
    checked = _tls_options(address) | {"ssl_cert_reqs": address.verify_mode.name}
    return f"rediss://{server}?{urlencode(checked)}"


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _sentinel_options(address: RedisAddress) -> dict[str, object]:
    """What Celery's connections have to know besides, where Sentinels name the primary."""
    if not address.sentinels:
        return {}
    asking = {"password": address.sentinel_password, "socket_timeout": _SENTINEL_TIMEOUT_SECONDS}
    tls = {"ssl": True, **_tls_options(address)} if address.tls else {}
    return {"master_name": address.sentinel_master, "sentinel_kwargs": asking | tls}


def _tls_options(address: RedisAddress) -> dict[str, object]:
    required = address.verify_mode is ssl.CERT_REQUIRED
    checked = {"ssl_cert_reqs": address.verify_mode, "ssl_check_hostname": required}
    return checked | ({"ssl_ca_certs": address.ca_file} if address.ca_file else {})
