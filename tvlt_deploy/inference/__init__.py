"""From clips and media files to answers."""
