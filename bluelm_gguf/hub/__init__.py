"""Names of models: the catalogue, what is on this disk, and what has to be downloaded."""
