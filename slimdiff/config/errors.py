"""The error of a configuration that cannot be used."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names key, value and what is allowed."""
