"""Which method, which settings, and is it really better: by measuring."""
