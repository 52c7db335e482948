"""Pre-processing of the original TVLT code: its image processor, feature extractor and masks."""
