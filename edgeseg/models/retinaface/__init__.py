"""RetinaFace."""
