"""Quality control before training: files are measured once, judged by the configuration and listed in a table."""
