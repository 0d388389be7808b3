"""crosstrain beside its rivals: same models, batches, precision and optimizer, in interleaved runs. `make bench`."""
