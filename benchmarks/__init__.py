"""What Praxis costs, as ratios against named peers; `make bench` runs it (see README.md here)."""
