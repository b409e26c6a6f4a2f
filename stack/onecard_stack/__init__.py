"""Runs all of Onecard on one machine: fetches the models, starts, watches and stops the processes."""
