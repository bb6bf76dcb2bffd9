"""Stages that are commands only: no rule of the workflow runs them."""
