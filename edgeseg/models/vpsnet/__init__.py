"""VPSNet: panoptic segmentation of videos, with identities."""
