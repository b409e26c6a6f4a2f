"""Run the service: `python -m llm_service`."""

import logging
import os

from llm_service import launch, preflight, stderr_filter
from llm_service.settings import LlmSettings
from onecard import logs, settings
from onecard.models import folders
from onecard.web import server


def main() -> None:
    """Check the host, wait for co-located services, then serve with vLLM or with Transformers.

    With vLLM this process becomes the vLLM server. With Transformers it serves until SIGTERM.

    Raises:
        SystemExit: A check fails, or a co-located service does not become ready in time.
    """
    config = settings.load(LlmSettings)
    logs.configure("llm", config.log_level)
    server.require_key_in_public(config)
    folder = folders.find("llm", config.llm_model, config.model_cache_path, stand_ins=config.allow_stand_ins)
    model_config = preflight.read_model(folder)
    preflight.require_free_port(config.host, config.vllm_port)
    host = preflight.detect_host(config)
    share = preflight.planned_gpu_share(config, os.environ) if host.gpu and config.vllm_enabled else None
    preflight.wait_for_colocated(config.llm_wait_for, config.llm_wait_seconds)
    if config.vllm_enabled:
        command = launch.vllm_command(config, folder, model_config, host, os.environ, share)
        logging.shutdown()  # Writes buffered records, which execve would discard.
        stderr_filter.redirect_stderr()
        os.execve(command.argv[0], command.argv, command.environment)  # noqa: S606 - no shell is meant
    from llm_service.fallback.app import create_app

    app = create_app(config, folder, window=launch.window(config, model_config))
    server.run(app, service="llm", port=config.vllm_port, settings=config)


if __name__ == "__main__":
    main()
