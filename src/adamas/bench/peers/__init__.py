"""The rows: `peers/FRAMEWORK_KIND.py` builds the jobs of one framework."""
