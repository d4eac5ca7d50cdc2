"""YolactEdge: YOLACT for pictures, and for videos with features carried over from key frames."""
