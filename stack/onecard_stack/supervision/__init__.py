"""supervisord round the processes: starting, watching, stopping."""
