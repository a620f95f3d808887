"""What the decoder is trained as is what the stock class computes."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from demo.vae import folded_decoder, new_vae, unfold  # noqa: E402


@torch.no_grad()
def test_a_trained_decoder_draws_the_same_from_within_the_stock_class(codec):
    torch.manual_seed(0)
    decoder, vae = folded_decoder(codec), new_vae(codec)
    for parameter in decoder.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    unfold(decoder, vae, codec)
    latents = torch.randn(2, len(codec.mean), 6, 4)
    shape = (1, -1, 1, 1, 1)
    raw = latents[:, :, None] * codec.std.view(shape) + codec.mean.view(shape)
    stock = vae.decoder(vae.post_quant_conv(raw))[:, :, 0]
    assert stock == pytest.approx(decoder(latents), abs=1e-4)


@torch.no_grad()
def test_the_stock_encoder_gives_the_codecs_latents(codec, images):
    shape = (1, -1, 1, 1)
    raw = new_vae(codec).encode((images[:4] * 2 - 1)[:, :, None]).latent_dist.mode()[:, :, 0]
    latents = (raw - codec.mean.view(shape)) / codec.std.view(shape)
    assert float((latents - codec.encode(images[:4])).abs().max()) < 0.05
