"""From a picture file to embeddings."""
