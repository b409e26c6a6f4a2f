"""What runs inside vLLM's processes, loaded through its own extension points."""
