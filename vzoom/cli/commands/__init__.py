"""One file per command of `vzoom`: its options, and what it prints."""
