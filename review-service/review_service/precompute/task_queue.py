"""The task queue: Celery, with the cache's Redis as its broker.

A message is acknowledged after its task is done (late acknowledgement). If the worker is killed before that, the
message stays in Redis, and after `VISIBILITY_TIMEOUT_SECONDS` another worker gets it. A task may therefore run twice,
so all tasks are idempotent.
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
"""Prefix of Celery's keys. They have no time to live, so a Redis with a `volatile-*` eviction policy keeps them."""
VISIBILITY_TIMEOUT_SECONDS = 300
"""A message that is not acknowledged by then is delivered again. Longer than any task takes."""
_TIMEOUT_SECONDS = 5.0
"""Timeout for one reply of Redis, and for connecting. Polling for messages blocks for one second each time."""
_SENTINEL_TIMEOUT_SECONDS = 1.0
"""Timeout for one reply of a Sentinel, and for connecting; then the next Sentinel is tried."""


def open_queue(settings: RedisSettings) -> Celery:
    """Create the Celery app without tasks, for clients and workers.

    Args:
        settings: Address of Redis.

    Returns:
        The app; connects when it is used.
    """
    address = settings.queue_address()
    queue = Celery("onecard", broker=_broker_url(address), set_as_current=False, fixups=[])
    queue.conf.update(
        accept_content=["json"],
        # With Sentinels there is no connection pool, so that each task is sent to the current primary. After a failover
        # the old primary still accepts messages for some ten seconds, and then loses them.
        broker_pool_limit=0 if address.sentinels else 10,
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_use_ssl=_tls_options(address) if address.tls and address.sentinels else None,
        broker_transport_options={
            "global_keyprefix": KEY_PREFIX,
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            "socket_timeout": _TIMEOUT_SECONDS,
            "socket_connect_timeout": _TIMEOUT_SECONDS,
            # Sending a task fails at once if Redis is unreachable. The worker reconnects on its own.
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
        # The worker reserves one message at a time. The others stay in Redis, where a killed worker cannot lose them.
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return queue


def keep_log_configuration() -> None:
    """Keep Celery from replacing this process's log configuration, and reduce what it logs.

    Celery logs two lines per task and one per round, which would be most of the log without traffic. Its pool also logs
    the arguments of tasks, which contain users' searches.
    """
    signals.setup_logging.connect(_no_op, weak=False)
    for name in ("celery.worker.strategy", "celery.app.trace", "celery.beat", "celery.pool"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _no_op(**_: object) -> None:
    """Receiver of `setup_logging`: Celery configures logging only if the signal has no receiver."""


def _broker_url(address: RedisAddress) -> str:
    """The URL of the cache's Redis in Celery's format. Its certificate is verified as the cache does."""
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
    options = _tls_options(address) | {"ssl_cert_reqs": address.verify_mode.name}
    return f"rediss://{server}?{urlencode(options)}"


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _sentinel_options(address: RedisAddress) -> dict[str, object]:
    """Transport options for a primary that is found through Sentinels; empty without Sentinels."""
    if not address.sentinels:
        return {}
    connection = {"password": address.sentinel_password, "socket_timeout": _SENTINEL_TIMEOUT_SECONDS}
    tls = {"ssl": True, **_tls_options(address)} if address.tls else {}
    return {"master_name": address.sentinel_master, "sentinel_kwargs": connection | tls}


def _tls_options(address: RedisAddress) -> dict[str, object]:
    required = address.verify_mode is ssl.CERT_REQUIRED
    verification = {"ssl_cert_reqs": address.verify_mode, "ssl_check_hostname": required}
    return verification | ({"ssl_ca_certs": address.ca_file} if address.ca_file else {})
