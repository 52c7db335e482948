"""Spectrograms against transformers 4.40.2, and everything the extractor refuses."""

import logging

import numpy as np
import pytest

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError, InputError
from tvlt_deploy.processors import TvltFeatureExtractor, mel_filter_bank

RATE = 44100


@pytest.fixture(scope="module")
def hf():
    return pytest.importorskip("transformers").TvltFeatureExtractor


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    logging.getLogger("transformers").setLevel(logging.ERROR)


def tone(frequency, seconds=1.0, amplitude=1.0):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def noise(samples, amplitude=0.1, seed=0):
    return (amplitude * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def speech(seconds=2.0, amplitude=0.3):
    """A gliding voice of 40 harmonics in syllables, with breath between them."""
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * (120 * t + 4 * np.sin(2 * np.pi * 0.7 * t))
    voice = sum(np.sin(k * phase) / k**1.3 for k in range(1, 40)) * np.clip(np.sin(2 * np.pi * 1.7 * t), 0, 1) ** 2
    return (amplitude * voice / np.abs(voice).max()).astype(np.float32) + noise(len(t), 1e-4)


def click(samples=RATE, at=22222):
    wave = np.zeros(samples, np.float32)
    wave[at] = 1
    return wave


SIGNALS = {
    "speech": speech(),
    "full-scale speech": speech(amplitude=1.0),
    "noise": noise(RATE),
    "loud noise": noise(RATE, 0.9),
    "quiet noise": noise(RATE, 1e-5),
    "silence": np.zeros(RATE // 2, np.float32),
    "click": click(),
    "first sample": click(3000, 0),
    "tone 50": tone(50),
    "tone 440": tone(440),
    "tone 3000": tone(3000),
    "tone 21000": tone(21000),
    "quiet tone": tone(440, amplitude=1e-3),
    **{f"{samples} samples": noise(samples) for samples in (512, 600, 1023, 1024, 1025, 2047, 8703, 8704)},
}


@pytest.mark.parametrize("name", SIGNALS)
def test_features_are_those_of_transformers(hf, name):
    theirs = hf()(SIGNALS[name], sampling_rate=RATE)
    ours = TvltFeatureExtractor()(SIGNALS[name], sampling_rate=RATE)
    assert list(ours) == ["audio_values", "audio_mask"]
    assert ours.audio_values.dtype == ours.audio_mask.dtype == np.float32
    assert ours.audio_values.shape == theirs["audio_values"].shape
    # 2e-6 is promised for speech and noise, 5e-5 for tones; double-precision transforms leave a tenth of the former.
    np.testing.assert_allclose(ours.audio_values, theirs["audio_values"], rtol=0, atol=5e-7)
    np.testing.assert_array_equal(ours.audio_mask, theirs["audio_mask"])


def test_known_numbers():
    n = np.arange(30000)
    wave = (
        0.1 * np.sin(2 * np.pi * 440 * n / RATE) + 0.02 * np.sin(2 * np.pi * 3000 * n / RATE) + 0.001 * np.cos(0.9 * n)
    )
    out = TvltFeatureExtractor()(wave.astype(np.float32), sampling_rate=RATE)
    values = out.audio_values[0, 0]
    assert out.audio_values.shape == (1, 1, 64, 128)
    assert values.sum(dtype=np.float64) == pytest.approx(-6140.354788, abs=2e-3)
    np.testing.assert_allclose(values[0, :4], [0.41560274, 0.43592918, 0.43107206, 0.4433155], atol=1e-6)
    np.testing.assert_allclose(values[30, [0, 10, 64, 127]], [-1, -0.156533, -0.67303157, -1], atol=1e-6)
    assert values[57, 0] == pytest.approx(-0.31357598, abs=1e-6)
    assert not values[58:].any()
    assert out.audio_mask.shape == (1, 32)
    assert out.audio_mask.sum() == 32


def test_loud_event_after_the_cut_moves_the_floor(hf):
    wave = speech(26.0, 0.3)
    wave[24 * RATE : 24 * RATE + 4000] += 30 * tone(2000, 1)[:4000]
    theirs, ours = hf()(wave, sampling_rate=RATE), TvltFeatureExtractor()(wave, sampling_rate=RATE)
    assert ours.audio_values.shape == (1, 1, 2048, 128)
    np.testing.assert_allclose(ours.audio_values, theirs["audio_values"], rtol=0, atol=5e-7)
    without = TvltFeatureExtractor()(wave[: 23 * RATE], sampling_rate=RATE).audio_values
    assert np.abs(without[0, 0, :1900] - ours.audio_values[0, 0, :1900]).max() > 0.1


def test_loud_last_frame_is_dropped_but_counts(hf):
    wave = noise(512 * 20, 1e-4)
    wave[-3:] = 60
    theirs, ours = hf()(wave, sampling_rate=RATE), TvltFeatureExtractor()(wave, sampling_rate=RATE)
    np.testing.assert_allclose(ours.audio_values, theirs["audio_values"], rtol=0, atol=5e-7)


def test_batch_is_padded_and_masked(hf):
    clips = [noise(40000), speech(1.0), noise(600), noise(512 * 17)]
    theirs, ours = hf()(clips, sampling_rate=RATE), TvltFeatureExtractor()(clips, sampling_rate=RATE)
    np.testing.assert_allclose(ours.audio_values, theirs["audio_values"], rtol=0, atol=5e-7)
    np.testing.assert_array_equal(ours.audio_mask, theirs["audio_mask"])
    assert ours.audio_mask.sum(axis=1).tolist() == [40, 48, 8, 16]
    alone = TvltFeatureExtractor()(clips[2], sampling_rate=RATE)
    np.testing.assert_array_equal(alone.audio_values[0], ours.audio_values[2, :, :16])


@pytest.mark.parametrize(
    "settings",
    [
        {"spectrogram_length": 32},
        {"patch_size": [8, 32]},
        {"feature_size": 64},
        {"hop_length_to_sampling_rate": 100},
        {"n_fft": 1024},
        {"padding_value": -1.0},
        {"sampling_rate": 48000},
    ],
    ids=str,
)
def test_settings(hf, settings):
    clips = [speech(0.7), noise(12345)]
    rate = settings.get("sampling_rate", RATE)
    theirs, ours = (
        hf(**settings)(clips, sampling_rate=rate),
        TvltFeatureExtractor(**settings)(clips, sampling_rate=rate),
    )
    assert ours.audio_values.shape == theirs["audio_values"].shape
    np.testing.assert_allclose(ours.audio_values, theirs["audio_values"], rtol=0, atol=5e-7)
    np.testing.assert_array_equal(ours.audio_mask, theirs["audio_mask"])


def test_mel_filters(hf):
    bank = mel_filter_bank()
    np.testing.assert_allclose(bank, hf().mel_filters, rtol=0, atol=1e-15)
    assert bank.sum() == pytest.approx(5.941555275187513, abs=1e-12)
    assert (bank > 1e-15).sum() == 2014 - (bank[:, -1] > 0).sum()
    assert bank[[0, 10, 64, 127]].argmax(axis=1).tolist() == [1, 16, 132, 992]


def test_low_sampling_rates_end_at_half_the_rate():
    bank = mel_filter_bank(64, 2048, 16000)
    assert bank.any(axis=1).all()
    assert TvltFeatureExtractor(sampling_rate=16000)(noise(16000), sampling_rate=16000).audio_values.shape[2] == 96


def test_forms_of_one_clip():
    wave = noise(2000)
    extractor = TvltFeatureExtractor()
    expected = extractor(wave, sampling_rate=RATE).audio_values
    torch = pytest.importorskip("torch")
    for form in (
        [wave], (wave,), wave.tolist(), [wave.tolist()], [tuple(wave.tolist())], [wave[None]], [wave[:, None]],
        wave.astype(np.float64), wave[::-1][::-1], torch.from_numpy(wave), [torch.from_numpy(wave)],
    ):  # fmt: skip
        np.testing.assert_array_equal(extractor(form, sampling_rate=RATE).audio_values, expected)
    np.testing.assert_array_equal(extractor.features(wave), expected[0, 0, :3])


@pytest.mark.parametrize(
    ("dtype", "scale", "zero"), [("int16", 2**15, 0), ("int32", 2**31, 0), ("int8", 128, 0), ("uint8", 128, 128)]
)
def test_integer_pcm_is_scaled(dtype, scale, zero):
    samples = np.round(np.clip(noise(5000, 0.3).astype(np.float64), -0.99, 0.99) * scale) + zero
    extractor = TvltFeatureExtractor()
    np.testing.assert_array_equal(
        extractor(samples.astype(dtype), sampling_rate=RATE).audio_values,
        extractor(((samples - zero) / scale).astype(np.float32), sampling_rate=RATE).audio_values,
    )


def test_spectrogram_is_cut_to_whole_patches():
    extractor = TvltFeatureExtractor(spectrogram_length=50)
    out = extractor(noise(512 * 70), sampling_rate=RATE)
    assert out.audio_values.shape == (1, 1, 48, 128)
    assert out.audio_mask.shape == (1, 24)


def test_return_tensors_and_mask():
    extractor = TvltFeatureExtractor()
    assert list(extractor(noise(600), return_attention_mask=False, sampling_rate=RATE)) == ["audio_values"]
    torch = pytest.importorskip("torch")
    out = extractor(noise(600), "pt", sampling_rate=RATE)
    assert isinstance(out["audio_values"], torch.Tensor)
    assert out.audio_mask.dtype == torch.float32
    with pytest.raises(ValueError, match="return_tensors is 'tf'"):
        extractor(noise(600), "tf", sampling_rate=RATE)
    with pytest.raises(AttributeError, match="expected one of audio_values, audio_mask"):
        _ = out.pixel_values


def test_missing_rate_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        TvltFeatureExtractor()(noise(600))
    assert "sampling_rate is not given" in caplog.text


def with_bad(value):
    wave = noise(2000)
    wave[1000] = value
    return wave


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 2000), np.float32), r"shape \(2, 2000\).*list of 1-D arrays"),
        (np.zeros((1, 2000), np.float32), "list of 1-D arrays"),
        (np.zeros((1, 2, 2000), np.float32), "list of 1-D arrays"),
        ([np.zeros((2, 2000), np.float32)], r"audio\[0\] has shape \(2, 2000\).*average the channels"),
        ([noise(600), np.zeros((2000, 2), np.float32)], r"audio\[1\] has shape \(2000, 2\).*average the channels"),
        (with_bad(np.nan), "NaN or infinite"),
        (with_bad(np.inf), "NaN or infinite"),
        (with_bad(-np.inf), "NaN or infinite"),
        (noise(2000).astype(np.float64) * 1e300, "NaN or infinite"),
        (noise(511), r"511 samples; expected at least 512 \(11.6 ms"),
        ([noise(600), noise(2)], r"audio\[1\] has 2 samples"),
        (np.zeros(0, np.float32), "0 samples"),
        ([], "empty list"),
        ([[]], "audio|samples"),
        (np.float32(1), "expected one channel"),
        ("clip.wav", "dtype .*tvlt_deploy.media"),
        (["clip.wav"], "dtype"),
        (noise(2000).astype(np.complex64), "complex64"),
        ([0, 1] * 600, "int64.*int16"),
        (noise(2000) * 32768, "within .-1, 1.*32768"),
        (None, "dtype object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_refused_sound(audio, message):
    with pytest.raises(InputError, match=message) as caught:
        TvltFeatureExtractor()(audio, sampling_rate=RATE)
    assert isinstance(caught.value, ValueError)


def test_refused_rates():
    extractor = TvltFeatureExtractor()
    with pytest.raises(InputError, match=r"sampling_rate is 16000; expected 44100.*tvlt_deploy\.media\.resample"):
        extractor(noise(2000), sampling_rate=16000)
    with pytest.raises(InputError, match=r"tvlt_deploy\.media\.resample"):
        extractor(noise(2000), sampling_rate=16000, resample=True)
    with pytest.raises(InputError, match="resample is true"):
        extractor(noise(2000), resample=True)
    assert extractor(noise(2000), sampling_rate=RATE, resample=True, mask_audio=True).audio_values.shape[2] == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": [16]}, "patch_size"),
        ({"patch_size": "16"}, "patch_size"),
        ({"patch_size": [16, 48]}, "multiple of the patch size"),
        ({"spectrogram_length": 15}, "shorter than one patch"),
        ({"spectrogram_length": 0}, "spectrogram_length is 0"),
        ({"sampling_rate": 44.1}, "sampling_rate is 44.1"),
        ({"padding_value": float("nan")}, "padding_value"),
        ({"hop_length": 441, "hop_length_to_sampling_rate": 86}, "set one of the two"),
        ({"hop_length_to_sampling_rate": 50000}, "hop"),
    ],
    ids=str,
)
def test_refused_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        TvltFeatureExtractor(**settings)


def test_from_config():
    extractor = TvltFeatureExtractor.from_config(
        TvltConfig(spectrogram_length=96, frequency_length=64, audio_patch_size=(8, 16))
    )
    out = extractor(noise(512 * 200), sampling_rate=RATE)
    assert out.audio_values.shape == (1, 1, 96, 64)
    assert out.audio_mask.shape == (1, 12 * 4)
    with pytest.raises(ConfigError, match="num_audio_channels"):
        TvltFeatureExtractor.from_config(TvltConfig(num_audio_channels=2))
