"""Code that runs inside vLLM's processes. vLLM loads it through its own extension points."""
