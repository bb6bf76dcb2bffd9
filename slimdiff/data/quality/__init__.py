"""What is looked at before a volume may be trained on: measured once, judged by the configuration, kept in a table."""
