"""Official data set files in, records out: one module per format, `prepare` for all of them."""
