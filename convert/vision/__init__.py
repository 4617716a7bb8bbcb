"""Vision tower and projector: tensors and metadata of the mmproj."""
