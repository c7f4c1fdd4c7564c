"""What `cmal prepare` is made of: finding official files, writing split files, one short function a data set."""
