"""The first look at a machine: what will stop a study on it, all at once, and what the study will cost."""
