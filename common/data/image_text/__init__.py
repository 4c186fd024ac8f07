"""Images with texts: several captions an image, bundled drawings, webdataset shards and streams.

Never here: anything of one side alone (`data/image`, `data/text`).
"""
