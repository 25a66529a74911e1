"""One file for each promise of docs/guarantees.md, with real workers on real brokers."""
