"""Training of one variant on one fold: torch, numpy, pydantic, safetensors and tqdm only."""
