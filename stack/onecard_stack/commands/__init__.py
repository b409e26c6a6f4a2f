"""What the commands do beside starting and stopping: demo, import, plan, status, precompute."""
