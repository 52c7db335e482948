"""Read video, image and audio files as RGB frames and mono 44.1 kHz sound, within resource limits."""

from tvlt_deploy.media.audio import SAMPLING_RATE, resample
from tvlt_deploy.media.clip import Clip, read_audio, read_clip, read_image, read_video
from tvlt_deploy.media.folder import MEDIA_SUFFIXES, is_media, pair_folder
from tvlt_deploy.media.limits import Limits

__all__ = [
    "MEDIA_SUFFIXES",
    "SAMPLING_RATE",
    "Clip",
    "Limits",
    "is_media",
    "pair_folder",
    "read_audio",
    "read_clip",
    "read_image",
    "read_video",
    "resample",
]
