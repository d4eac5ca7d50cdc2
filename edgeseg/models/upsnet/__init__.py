"""UPSNet: panoptic segmentation in which every instance competes with every stuff for each pixel."""
