"""What makes the model fast on a CPU: padding removal, attention tiles, output rows that are read, and kernels."""
