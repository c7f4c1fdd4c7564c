"""One official format each: files as downloaded -> rows or records, streaming, with all faults reported together."""
