"""Prometheus and Grafana inside a pod, whose image has both: their processes, and the files with their secrets. Pure.

They have no port in the process table, because the pod is ready without them.
"""

from pathlib import Path

from onecard_stack.processes.process_table import Process
from onecard_stack.settings import StackSettings

PROMETHEUS = Path("/usr/local/bin/prometheus")
GRAFANA_HOME = Path("/usr/share/grafana")
FOLDER = Path("/opt/monitoring")
"""Rules, alerts and dashboard in the image: the repository's `monitoring`."""
KEY_FILE = "prometheus.key"
GRAFANA_CONFIG = "grafana.ini"


def processes(settings: StackSettings) -> list[Process]:
    """List the processes.

    Args:
        settings: the stack's settings.

    Returns:
        Prometheus and Grafana; none without `MONITORING`.
    """
    if not settings.monitoring:
        return []
    prometheus = (
        str(PROMETHEUS),
        f"--config.file={FOLDER / 'prometheus' / 'pod.yml'}",
        f"--storage.tsdb.path={settings.onecard_home / 'prometheus'}",
        "--storage.tsdb.retention.time=15d",
        "--web.listen-address=127.0.0.1:9090",
    )
    grafana = (
        *(str(GRAFANA_HOME / "bin" / "grafana"), "server"),
        *("--homepath", str(GRAFANA_HOME)),
        *("--config", str(settings.run_folder / GRAFANA_CONFIG)),
    )
    return [
        Process("prometheus", prometheus, port=0, start_order=5, health=None),
        Process("grafana", grafana, port=0, start_order=50, health=None),
    ]


def files(settings: StackSettings) -> dict[str, str]:
    """Render the files that hold secrets, which only the stack's user can read.

    Args:
        settings: the stack's settings.

    Returns:
        Text by name in the run folder; empty without `MONITORING`.
    """
    if not settings.monitoring or settings.grafana_password is None:
        return {}
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    return {KEY_FILE: key, GRAFANA_CONFIG: _grafana_config(settings, settings.grafana_password.get_secret_value())}


def _grafana_config(settings: StackSettings, password: str) -> str:
    # Three quotes keep '#' and ';' of the password from beginning a comment.
    return f'''[server]
http_addr = {settings.host}
http_port = {settings.grafana_port}
[paths]
data = {settings.onecard_home / "grafana"}
logs = {settings.log_folder / "grafana"}
provisioning = {FOLDER / "grafana" / "pod"}
[security]
admin_password = """{password}"""
[analytics]
reporting_enabled = false
check_for_updates = false
check_for_plugin_updates = false
[dashboards]
default_home_dashboard_path = {FOLDER / "grafana" / "dashboards" / "onecard.json"}
'''
