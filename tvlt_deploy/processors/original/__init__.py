"""The pre-processing of the original TVLT code: image processor, feature extractor and masks."""
