"""Which files are media, and which sound belongs to which pictures in a folder."""

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
"""Lower-case suffixes, with their dot, of the files that `pair_folder` lists."""


def is_media(path: str | os.PathLike[str]) -> bool:
    """Whether the name of a file is that of a video, image or sound; the file itself is not looked at."""
    return Path(path).suffix.lower() in MEDIA_SUFFIXES


def pair_folder(directory: str | os.PathLike[str]) -> list[tuple[Path, Path | None]]:
    """The clips of a folder by name: (media, separate sound or None).

    A video or image and a sound with equal stems are one clip; what has no partner stands alone. Hidden files, other
    files and folders inside are skipped. Raises `InputError` for what is not a folder, and when more than two files
    with one stem leave open which belong together.
    """
    folder = check_path(directory)
    try:
        files = sorted(
            file for file in folder.iterdir() if not file.name.startswith(".") and is_media(file) and file.is_file()
        )
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}", hint="give the path of a folder") from None
    stems: dict[str, list[Path]] = {}
    for file in files:
        stems.setdefault(file.stem, []).append(file)
    pairs: list[tuple[Path, Path | None]] = []
    for group in stems.values():
        sounds = [file for file in group if file.suffix.lower() in AUDIO_SUFFIXES]
        pictures = [file for file in group if file not in sounds]
        if sounds and pictures:
            if len(group) > 2:
                names = ", ".join(file.name for file in group)
                raise InputError(
                    f"{folder}: which belong together of {names}?", hint="give each pair a stem of its own"
                )
            pairs.append((pictures[0], sounds[0]))
        else:
            pairs.extend((file, None) for file in group)
    return sorted(pairs, key=lambda pair: pair[0])
