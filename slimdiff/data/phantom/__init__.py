"""The phantom cohort of the demo, written as a BIDS dataset."""
