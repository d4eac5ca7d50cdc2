"""The panoptic head of UPSNet and VPSNet written down plainly, with a channel of the whole input for everything."""

import cv2
import numpy as np


def enlarged_fully(logits_Chw, factor):
    """Return (C, H, W): bilinear with half-pixel centres, as PyTorch has it; the last cell is repeated."""
    for axis in (2, 1):
        cells = logits_Chw.shape[axis]
        position = (np.arange(cells * factor) + 0.5) / factor - 0.5
        position = np.maximum(position, 0)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, cells - 1)
        weight = (
            (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        )
        first = logits_Chw.take(low, axis) * (1 - weight)
        logits_Chw = first + logits_Chw.take(high, axis) * weight
    return logits_Chw


def contest_fully(logits_Chw, boxes, classes, masks, *, num_stuff, overlap, has_unknown, factor=4):
    """Return the argmax over all channels, that over all classes, and which contenders are kept.

    Stuff first, then an array of the whole input for each kept contender, then unknown; without a contender one of zeros.
    """
    logits = enlarged_fully(logits_Chw, factor)
    height, width = logits.shape[1:]
    channels, used, kept, coverage = list(logits[:num_stuff]), [], [], {}
    planes = []
    for row, (box, label) in enumerate(zip(boxes, classes, strict=True)):
        x1, y1, x2, y2 = (int(value) for value in box)
        size = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
        plane = np.zeros((max(height, y1 + size[1]), max(width, x1 + size[0])), np.float32)
        plane[y1 : y1 + size[1], x1 : x1 + size[0]] = cv2.resize(masks[row], size)
        plane = plane[:height, :width]
        mask = plane > 0
        covered = coverage.setdefault(label, np.zeros((height, width), bool))
        if mask.sum() and (mask & covered).sum() / mask.sum() <= overlap:
            covered |= mask
            kept.append(row)
            planes.append(plane)
    if len(boxes) and not kept:
        kept, planes = [0], [np.zeros((height, width), np.float32)]
    for row, plane in zip(kept, planes, strict=True):
        x1, y1, x2, y2 = (float(value) for value in boxes[row])
        part = np.zeros((height, width), np.float32)
        inside = slice(int(y1), int(round(y2) + 1)), slice(int(x1), int(round(x2) + 1))
        part[inside] = logits[classes[row]][inside]
        used.append(part)
        channels.append(part + plane)
    if not kept:
        used.append(np.zeros((height, width), np.float32))
        channels.append(used[0])
    if has_unknown:
        channels.append(logits[num_stuff:].max(axis=0) - np.max(used, axis=0))
    return np.argmax(channels, axis=0), logits.argmax(axis=0), tuple(kept)
