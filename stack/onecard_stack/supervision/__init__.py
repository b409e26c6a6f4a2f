"""Starts, watches and stops the processes with supervisord."""
