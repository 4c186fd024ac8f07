"""Video clips with subtitles and questions: readers, spans in time, frame features, batches."""
