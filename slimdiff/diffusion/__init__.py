"""Noise schedule, prediction types, losses and samplers: pure functions on tensors."""
