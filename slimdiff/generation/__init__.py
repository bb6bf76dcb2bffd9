"""Drawing samples from a checkpoint: torch, numpy, pydantic, safetensors and tqdm only."""
