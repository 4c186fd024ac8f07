"""Video clips with subtitles and multiple-choice questions: readers, spans in time, features of frames, batches.

Never here: attention and scores (`encoders/video`), metrics of answers and spans
(`evaluation/video`).
"""
