"""Weight files of open_clip and DINOv2: attention and blocks against torch's own, positions, files.

The files here hold random numbers in tiny networks, under the keys of the published ones.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import gradient
from torch import nn
from torch.nn import functional

from image_search.config import EmbeddingsConfig, WeightFilesConfig
from image_search.embeddings import dinov2, open_clip, weight_files
from image_search.embeddings.base import EmbedderUnavailableError, NotFittedError
from image_search.embeddings.dinov2 import DinoSize, DinoTower
from image_search.embeddings.open_clip import OpenClipSize, OpenClipTower
from image_search.embeddings.registry import load_embedder, make_embedder
from image_search.embeddings.vit import attend, resized_positions, tokens_of
from ml_platform.evaluation.progress import Silent

PUBLISHED_CLIP, PUBLISHED_DINO = open_clip.SIZES["ViT-B-32"], dinov2.SIZES["vits14"]
CLIP_SIZE = OpenClipSize(side=224, patch=112, width=16, layers=2, heads=4, output=8)
DINO_SIZE = DinoSize(width=12, layers=2, heads=3, patch=56, trained_side=168)


def randomised(network: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """The network's keys with random numbers, as a file would hold them."""
    chance = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=chance) * 0.2
        for key, value in network.state_dict().items()
    }


def clip_file(path: Path, **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Writes a file as open_clip publishes it, with a text tower and a scale beside."""
    tower = {f"visual.{k}": v for k, v in randomised(OpenClipTower(CLIP_SIZE)).items()}
    state: dict[str, Any] = {
        **tower, "logit_scale": torch.tensor(1.0), "token_embedding.weight": torch.zeros(3, 2),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }  # fmt: skip
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return tower


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.SIZES, "ViT-B-32", CLIP_SIZE)
    monkeypatch.setitem(dinov2.SIZES, "vits14", DINO_SIZE)


def configured(**files: Path) -> EmbeddingsConfig:
    return EmbeddingsConfig(weight_files=WeightFilesConfig(**files))  # type: ignore[arg-type]


def fitted(name: str, path: Path) -> Any:
    return make_embedder(name).fit([], None, configured(**{name: path}), 0, Silent())


# --- the mathematics ---


def torch_attention(width: int, heads: int) -> nn.MultiheadAttention:
    torch.manual_seed(1)
    reference = nn.MultiheadAttention(width, heads, batch_first=True)
    nn.init.normal_(reference.in_proj_bias)
    return reference.eval()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_agrees_with_torch(heads: int) -> None:
    reference = torch_attention(8, heads)
    tokens = torch.randn(3, 5, 8)
    expected, _ = reference(tokens, tokens, tokens, need_weights=False)

    of_clip = open_clip.PackedAttention(8, heads)
    of_clip.load_state_dict(reference.state_dict())  # the same names
    torch.testing.assert_close(of_clip(tokens), expected)

    of_dino = dinov2.Attention(DinoSize(8, 1, heads))
    of_dino.qkv.weight.data, of_dino.qkv.bias.data = (
        reference.in_proj_weight.data, reference.in_proj_bias.data,
    )  # fmt: skip
    of_dino.proj.load_state_dict(reference.out_proj.state_dict())
    torch.testing.assert_close(of_dino(tokens), expected)


def test_attention_by_hand() -> None:
    """Two tokens, one number: q = (0, ln 3), k = (0, 1), v = (4, 8)."""
    three = 1.0986123  # ln 3
    packed = torch.tensor([[[0.0, 0.0, 4.0], [three, 1.0, 8.0]]])
    # Token 0 weighs both alike; token 1 weighs them 1 : 3.
    torch.testing.assert_close(attend(packed, 1)[0, :, 0], torch.tensor([6.0, 7.0]))
    with pytest.raises(ValueError, match="3 heads do not divide a width of 4"):
        attend(torch.zeros(1, 2, 12), 3)


def test_a_clip_block_agrees_with_torchs_encoder_layer() -> None:
    torch.manual_seed(2)
    block = open_clip.Block(CLIP_SIZE)
    reference = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    renamed = {
        "self_attn": block.attn, "norm1": block.ln_1, "norm2": block.ln_2,
        "linear1": block.mlp.c_fc, "linear2": block.mlp.c_proj,
    }  # fmt: skip
    for name, part in renamed.items():
        reference.get_submodule(name).load_state_dict(part.state_dict())
    tokens = torch.randn(2, 5, 16)
    torch.testing.assert_close(block(tokens), reference(tokens))


def test_quick_gelu_is_another_function() -> None:
    x = torch.tensor([0.0, 1.0, -1.0])
    found = open_clip.QuickGelu()(x)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.845796, -0.154204]))
    assert (found - functional.gelu(x)).abs().max() > 1e-3
    quick = OpenClipSize(224, 112, 16, 2, 4, 8, quick_gelu=True)
    state, picture = randomised(OpenClipTower(CLIP_SIZE)), torch.randn(1, 3, 224, 224)
    made = []
    for size in (CLIP_SIZE, quick):
        tower = OpenClipTower(size).eval()
        tower.load_state_dict(state)
        made.append(tower(picture))
    assert (made[0] - made[1]).abs().max() > 1e-4


def test_layer_scale_silences_a_block() -> None:
    block = dinov2.Block(DINO_SIZE)
    tokens = torch.randn(1, 3, 12)
    assert (block(tokens) - tokens).abs().max() > 1e-3
    for scale in (block.ls1, block.ls2):
        scale.gamma.data.zero_()
    torch.testing.assert_close(block(tokens), tokens)


def test_tokens_stand_in_reading_order() -> None:
    patches = torch.arange(4.0).reshape(1, 1, 2, 2)
    found = tokens_of(patches, torch.tensor([9.0]), torch.tensor([[0.5], [0.0], [0.0], [0], [1.0]]))
    assert found.flatten().tolist() == [9.5, 0.0, 1.0, 2.0, 4.0]


def test_positions_bend_and_the_class_token_stays() -> None:
    """A plane that rises by one a row stays a plane: inside, a grid twice as fine rises by half."""
    rows = torch.arange(6.0)[:, None].expand(6, 6).reshape(36, 1)
    positions = torch.cat([torch.tensor([[7.0]]), rows])
    assert resized_positions(positions, 6) is positions
    finer = resized_positions(positions, 12)
    assert finer[0].item() == 7.0
    column = finer[1:].reshape(12, 12)[:, 0]
    steps = (column[1:] - column[:-1])[4:-4]
    torch.testing.assert_close(steps, torch.full((3,), 0.5), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="5 positions are not a square grid"):
        resized_positions(torch.zeros(6, 2), 3)


def test_dinos_offset_changes_positions_a_little() -> None:
    torch.manual_seed(3)
    positions = torch.randn(1 + 37 * 37, 2)
    plain = functional.interpolate(
        positions[1:].T.reshape(1, 2, 37, 37), size=(16, 16), mode="bicubic"
    )
    theirs = functional.interpolate(
        positions[1:].T.reshape(1, 2, 37, 37), scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic"
    )
    found = resized_positions(positions, 16, offset=0.1)[1:].T.reshape(1, 2, 16, 16)
    torch.testing.assert_close(found, theirs)
    assert 0 < (found - plain).abs().mean() < 1


def test_a_picture_that_patches_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="57 pixels are not filled by patches of 56"):
        DinoTower(DINO_SIZE)(torch.zeros(1, 3, 57, 57))


# --- keys of the published files ---


def test_keys_of_open_clip() -> None:
    """ViT-B-32 with one block instead of twelve: the others are named alike."""
    keys = OpenClipTower(replace(PUBLISHED_CLIP, layers=1)).state_dict()
    sizes = {key: tuple(value.shape) for key, value in keys.items()}
    assert len(sizes) == 8 + 12
    expected = {
        "class_embedding": (768,), "positional_embedding": (50, 768), "proj": (768, 512),
        "conv1.weight": (768, 3, 32, 32), "ln_pre.weight": (768,), "ln_pre.bias": (768,),
        "ln_post.weight": (768,), "ln_post.bias": (768,),
        "transformer.resblocks.0.ln_1.weight": (768,),
        "transformer.resblocks.0.attn.in_proj_weight": (2304, 768),
        "transformer.resblocks.0.attn.in_proj_bias": (2304,),
        "transformer.resblocks.0.attn.out_proj.weight": (768, 768),
        "transformer.resblocks.0.mlp.c_fc.weight": (3072, 768),
        "transformer.resblocks.0.mlp.c_proj.bias": (768,),
        "transformer.resblocks.0.ln_2.bias": (768,),
    }  # fmt: skip
    assert expected.items() <= sizes.items()


def test_keys_of_dinov2() -> None:
    """ViT-S/14 with one block instead of twelve."""
    keys = DinoTower(replace(PUBLISHED_DINO, layers=1)).state_dict()
    sizes = {key: tuple(value.shape) for key, value in keys.items()}
    assert len(sizes) == 6 + 14
    expected = {
        "cls_token": (1, 1, 384), "pos_embed": (1, 1370, 384),
        "patch_embed.proj.weight": (384, 3, 14, 14), "patch_embed.proj.bias": (384,),
        "norm.weight": (384,), "norm.bias": (384,),
        "blocks.0.norm1.weight": (384,), "blocks.0.attn.qkv.weight": (1152, 384),
        "blocks.0.attn.qkv.bias": (1152,), "blocks.0.attn.proj.weight": (384, 384),
        "blocks.0.ls1.gamma": (384,), "blocks.0.norm2.bias": (384,),
        "blocks.0.mlp.fc1.weight": (1536, 384), "blocks.0.mlp.fc2.bias": (384,),
        "blocks.0.ls2.gamma": (384,),
    }  # fmt: skip
    assert expected.items() <= sizes.items()


# --- files ---


def test_a_clip_file_is_read_and_embeds(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    tower = clip_file(path)
    embedder = fitted("open_clip", path)
    pictures = [gradient(40, 60), gradient(60, 40)[:, ::-1]]
    rows = embedder.embed(pictures)
    assert rows.shape == (2, embedder.dim) == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)

    network = OpenClipTower(CLIP_SIZE).eval()
    network.load_state_dict({key.removeprefix("visual."): v for key, v in tower.items()})
    with torch.no_grad():
        made = network(weight_files.prepared(pictures, weight_files.OPEN_CLIP.view)).numpy()
    np.testing.assert_allclose(rows, made / np.linalg.norm(made, axis=1, keepdims=True), atol=1e-5)


def test_a_training_checkpoint_is_read_too(tmp_path: Path) -> None:
    plain, wrapped = tmp_path / "plain.pt", tmp_path / "wrapped.pt"
    clip_file(plain)
    inner = {f"module.{key}": value for key, value in torch.load(plain).items()}
    torch.save({"epoch": 3, "state_dict": inner}, wrapped)
    picture = [gradient()]
    np.testing.assert_array_equal(
        fitted("open_clip", wrapped).embed(picture), fitted("open_clip", plain).embed(picture)
    )


def test_a_dino_file_is_read_and_embeds(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = randomised(DinoTower(DINO_SIZE))
    torch.save({**state, "mask_token": torch.zeros(1, 12)}, path)
    embedder = fitted("dinov2", path)
    rows = embedder.embed([gradient(), gradient()[::-1]])
    assert rows.shape == (2, 12)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    network = DinoTower(DINO_SIZE).eval()
    network.load_state_dict(state)
    with torch.no_grad():
        made = network(weight_files.prepared([gradient()], weight_files.DINOV2.view)).numpy()[0]
    np.testing.assert_allclose(rows[0], made / np.linalg.norm(made), atol=1e-5)


def test_pictures_are_prepared_as_published() -> None:
    white = np.full((300, 400, 3), 255, np.uint8)
    for recipe, red in ((weight_files.OPEN_CLIP, 1.93034), (weight_files.DINOV2, 2.24891)):
        made = weight_files.prepared([white], recipe.view)
        assert tuple(made.shape) == (1, 3, 224, 224)
        assert made[0, 0].unique().tolist() == pytest.approx([red], abs=1e-4)  # (1 - mean) / spread


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    clip_file(path, visual__proj=None, visual__ln_pre__bias=None)
    with pytest.raises(ValueError, match=r"missing: visual\.ln_pre\.bias, visual\.proj$"):
        fitted("open_clip", path)
    clip_file(path, visual__proj=torch.zeros(16, 9))
    with pytest.raises(ValueError, match=r"visual.proj \[16, 9\] instead of \[16, 8\]"):
        fitted("open_clip", path)
    clip_file(path, visual__attn_pool__query=torch.zeros(2))
    with pytest.raises(ValueError, match=r"unknown: visual\.attn_pool\.query"):
        fitted("open_clip", path)
    torch.save({"register_tokens": torch.zeros(1, 4, 12)}, path)
    with pytest.raises(ValueError, match="and 26 more; unknown: register_tokens"):
        fitted("dinov2", path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"not a weight file")
    with pytest.raises(ValueError, match="not a weight file that torch reads"):
        fitted("open_clip", path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds list, expected keys with tensors"):
        fitted("open_clip", path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI's files are of this kind
        torch.jit.save(torch.jit.script(open_clip.QuickGelu()), path)
    with (
        pytest.warns(UserWarning, match="looks like a TorchScript archive"),
        pytest.raises(ValueError, match=r"TorchScript archives and \.safetensors are not read"),
    ):
        fitted("open_clip", path)


class Runs:
    """A pickle that would run something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_a_file_that_runs_something_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"visual.proj": Runs()}, "weights.pt")
    with pytest.raises(ValueError, match="without running its content"):
        fitted("open_clip", Path("weights.pt"))
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["open_clip", "dinov2"])
def test_without_a_file_nothing_starts(name: str, tmp_path: Path) -> None:
    with pytest.raises(EmbedderUnavailableError, match=f"embeddings.weight_files.{name}"):
        make_embedder(name).fit([], None, EmbeddingsConfig(), 0, Silent())
    with pytest.raises(EmbedderUnavailableError, match="there is no weight file"):
        fitted(name, tmp_path / "gone.pt")
    with pytest.raises(NotFittedError, match="has read no weights yet"):
        make_embedder(name).embed([gradient()])


def test_saved_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    clip_file(path)
    embedder = fitted("open_clip", path)
    embedder.save(tmp_path)
    again = load_embedder(tmp_path)
    assert again.fingerprint == embedder.fingerprint
    np.testing.assert_array_equal(again.embed([gradient()]), embedder.embed([gradient()]))
    clip_file(path, visual__proj=torch.ones(16, 8))
    with pytest.raises(EmbedderUnavailableError, match="put the first file back"):
        load_embedder(tmp_path)
