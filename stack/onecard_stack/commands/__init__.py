"""The commands other than starting and stopping: demo, import, plan, precompute, status and logs."""
