import torch

from vpetl_ray.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, clips_to_input


def test_clips_are_normalised_per_channel_and_put_in_channel_order():
    clips = torch.randint(0, 256, (2, 4, 6, 8, 3), dtype=torch.uint8)
    video = clips_to_input(clips)
    assert video.shape == (2, 3, 4, 6, 8)
    for channel in range(3):
        expected = (clips[..., channel] / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert torch.allclose(video[:, channel], expected, atol=1e-5)


def test_stored_clips_are_not_changed():
    clips = torch.full((1, 2, 4, 4, 3), 7, dtype=torch.uint8)
    clips_to_input(clips, dtype=torch.float64)
    assert (clips == 7).all()
