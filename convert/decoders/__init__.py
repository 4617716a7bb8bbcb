"""Language models: hyperparameters, tensors and metadata, a small class per architecture."""
