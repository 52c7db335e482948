"""What a user sets going: export, fuse, quantize, verify, locate, golden vectors, retrieve."""
