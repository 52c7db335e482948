"""Media files of a folder, and which sound belongs to which video or image."""

from __future__ import annotations

import os
from pathlib import Path

from tvlt_deploy.errors import InputError
from tvlt_deploy.media.source import check_path

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mj2", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf", ".ts", ".m2ts",
    ".mts", ".mpg", ".mpeg", ".vob", ".ogv",
})  # fmt: skip
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".png", ".apng", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif",
})  # fmt: skip
AUDIO_SUFFIXES = frozenset({
    ".wav", ".w64", ".flac", ".mp3", ".m4a", ".aac", ".ac3", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff", ".au",
    ".caf", ".amr", ".mka",
})  # fmt: skip
MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES | AUDIO_SUFFIXES
"""Lower-case suffixes, including the dot, of the files that `pair_folder` lists."""


def is_media(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the suffix of a video, image or audio file. The file itself is not opened."""
    return Path(path).suffix.lower() in MEDIA_SUFFIXES


def pair_folder(directory: str | os.PathLike[str]) -> list[tuple[Path, Path | None]]:
    """List the clips of a folder.

    A video or image and an audio file with the same stem are one clip; every other media file is a clip of its own.
    Hidden files, other files and folders are skipped.

    Args:
        directory: Path of the folder.

    Returns:
        (media, separate audio file or None) per clip, sorted by name.

    Raises:
        InputError: `directory` is not a folder, or more than two files have the same stem.
    """
    folder = check_path(directory)
    try:
        files = sorted(
            file for file in folder.iterdir() if not file.name.startswith(".") and is_media(file) and file.is_file()
        )
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}", hint="pass the path of a folder") from None
    stems: dict[str, list[Path]] = {}
    for file in files:
        stems.setdefault(file.stem, []).append(file)
    pairs: list[tuple[Path, Path | None]] = []
    for group in stems.values():
        sounds = [file for file in group if file.suffix.lower() in AUDIO_SUFFIXES]
        others = [file for file in group if file not in sounds]
        if sounds and others:
            if len(group) > 2:
                names = ", ".join(file.name for file in group)
                raise InputError(
                    f"{folder}: which belong together of {names}? Expected at most two files with one stem",
                    hint="rename the files so that each pair has its own stem",
                )
            pairs.append((others[0], sounds[0]))
        else:
            pairs.extend((file, None) for file in group)
    return sorted(pairs, key=lambda pair: pair[0])
