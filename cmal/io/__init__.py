"""Reading and writing safely: atomic files, locks, signals, untrusted pickles, JSON streams, rows of official files."""
