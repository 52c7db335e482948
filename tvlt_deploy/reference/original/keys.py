"""The keys of the TVLT authors' code for each key of the reference model.

Source: zinengtang/TVLT, MIT licence, `model/modules/tvlt.py` and `heads.py`.
The table in words: docs/reference/original-checkpoints.md.
"""

from __future__ import annotations

import re

from tvlt_deploy.reference.weights import PREFIX

# Prefixes of Hugging Face's keys, without `tvlt.`, and the authors'. {head} is the head in use.
_NAMES = {
    "cls_embedding": "cls_token",
    "pixel_embeddings.patch_embeddings.projection": "patch_embed_v.proj",
    "pixel_embeddings.type_embed_v": "type_embed_v",
    "pixel_embeddings.pos_embed_v": "pos_embed_v",
    "pixel_embeddings.temporal_embed": "temporal_embed",
    "audio_embeddings.patch_embeddings.projection": "patch_embed_a.proj",
    "audio_embeddings.type_embed_a": "type_embed_a",
    "audio_embeddings.pos_embed_a": "pos_embed_a",
    "audio_embeddings.freq_embed": "freq_embed",
    "encoder.layer": "blocks",
    "layernorm": "norm",
    "classifier": "{head}",
    "matching_head": "{head}",
    "encoder_to_decoder": "decoder_embed",
    "pixel_mask_token": "mask_token_v",
    "audio_mask_token": "mask_token_a",
    "decoder_pixel_pos_embed": "decoder_pos_embed_v",
    "decoder_temporal_embed": "decoder_temporal_embed",
    "decoder_pixel_type_embed": "decoder_type_embed_v",
    "decoder_audio_pos_embed": "decoder_pos_embed_a",
    "decoder_freq_embed": "decoder_freq_embed",
    "decoder_audio_type_embed": "decoder_type_embed_a",
    "decoder.decoder_layers": "decoder_blocks",
    "decoder.layernorm": "decoder_norm",
    "pixel_mae_head": "mae_score_video",
    "audio_mae_head": "mae_score_audio",
}
# Keys inside a layer. Query, key and value are thirds of one matrix, in this order.
_LAYER_NAMES = {
    "layernorm_before": "norm1",
    "attention.attention.query": "attn.qkv",
    "attention.attention.key": "attn.qkv",
    "attention.attention.value": "attn.qkv",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_THIRDS = ("query", "key", "value")
# Position tables have more entries than the model uses: the first ones are used.
TABLES = ("temporal_embed", "pos_embed_a", "decoder_temporal_embed", "decoder_pos_embed_a")

_LAYER = r"\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)"
_CLASSIFIER = r"\.(0\.dense|1|2|4)\.(weight|bias)"
_MATCHER = r"\.(pooler\.dense|fc)\.(weight|bias)"
# The heads by task. Of two for one task the first is the default: fine-tuning for retrieval copies `matching_score` to
# `rank_output` and trains only the copy.
HEADS = {
    "audio-visual-classification": {
        "vqa_classifier": re.compile("vqa_classifier" + _CLASSIFIER),
        "classifier": re.compile("classifier" + _CLASSIFIER),
    },
    "audio-visual-matching": {
        "rank_output": re.compile("rank_output" + _MATCHER),
        "matching_score": re.compile("matching_score" + _MATCHER),
    },
    "masked-reconstruction": {
        "decoder": re.compile(
            r"decoder_(embed|norm)\.(weight|bias)|mask_token_[av]|mae_score_(audio|video)\.decoder\.(weight|bias)"
            rf"|decoder_(pos_embed_[av]|type_embed_[av]|temporal_embed|freq_embed)|decoder_blocks\.{_LAYER}"
        ),
    },
}
CHOOSABLE_HEADS = (*HEADS["audio-visual-classification"], *HEADS["audio-visual-matching"])


def head_of(key: str) -> str | None:
    """The head that one of the authors' keys belongs to; None for the encoder's and for unknown ones."""
    return next((name for heads in HEADS.values() for name, keys in heads.items() if keys.fullmatch(key)), None)


def original_key(key: str, head: str | None) -> tuple[str, int | None]:
    """The authors' key for a key of the reference model, and which third of that tensor it is (None: all of it)."""
    bare = key.removeprefix(PREFIX)
    start = next(start for start in _NAMES if bare == start or bare.startswith(f"{start}."))
    name, rest = _NAMES[start].format(head=head), bare.removeprefix(start)
    if layer := re.fullmatch(r"(\.\d+)\.(.+)(\.\w+)", rest) if name.endswith("blocks") else None:
        number, inner, kind = layer.groups()
        last = inner.rpartition(".")[2]
        return f"{name}{number}.{_LAYER_NAMES[inner]}{kind}", _THIRDS.index(last) if last in _THIRDS else None
    return name + rest, None
