"""The Transformers engine, for machines on which vLLM cannot run."""
