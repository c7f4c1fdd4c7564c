"""Safe reading and writing: atomic files, locks, signals, untrusted files in a child process, JSON streams, rows."""
